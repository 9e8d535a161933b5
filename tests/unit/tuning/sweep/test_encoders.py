"""A study that searches the encoder: what is read, checked, counted and hashed of each."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kobert_core.errors import InputError
from kobert_core.inference import Predictor
from kobert_core.tasks.labelled_texts.config import NO_CLASS_OF_TRANSFORMERS
from search_spaces.distributions import Space
from tests.fixtures.encoders import make_encoder
from tests.fixtures.tiny import SAMPLE
from tuning.display.trials import short_values, values_as_text
from tuning.study import StudyConfig, dump_study, load_study
from tuning.study.encoders import encoders_of, short_names
from tuning.sweep.comparison import Comparison
from tuning.sweep.disk import checkpoint_bytes
from tuning.sweep.export import model_card
from tuning.sweep.preflight import check_study, files_of, is_here, prepare, survey
from tuning.sweep.train_local import train_once
from tuning.sweep_dir.provenance import files_under, refuse_other_provenance, write_provenance
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord
from tuning.workers.worker_pool import modules_for

BERT, ELECTRA = "../models/bert", "../models/electra"
Load = Callable[..., StudyConfig]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "models"
    for family, values in (("bert", {}), ("electra", {"num_hidden_layers": 3}), ("roberta", {})):
        make_encoder(family, folder / family, **values)
    return folder


@pytest.fixture
def load(models: Path, tmp_path: Path) -> Load:
    """A study whose sections can be replaced, in a folder beside that of the models."""
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "studies").mkdir()

    def load(*overrides: str, parameters: dict[str, Any] | None = None, **sections: Any) -> StudyConfig:
        values: dict[str, Any] = {
            "schema_version": 1,
            "name": "encoders",
            "task": "nsmc",
            "data": {"train": str(SAMPLE / "train.tsv"), "max_length": 32},
            "parameters": {"model.backbone": {"values": [BERT, ELECTRA]}} | (parameters or {}),
            "budget": {"trials": 2},
        }
        with open(tmp_path / "studies" / "study.yaml", "w", encoding="utf-8") as file:
            YAML().dump(values | sections, file)
        return load_study(tmp_path / "studies" / "study.yaml", overrides)

    return load


def test_relative_paths_start_from_the_study_file_wherever_they_stand(load: Load, tmp_path: Path) -> None:
    bert, electra = (f"{tmp_path}/models/{name}" for name in ("bert", "electra"))
    study = load(
        parameters={
            "model.backbone": {"values": [BERT, ELECTRA, "skt/kobert-base-v1"]},
            "model.tokenizer": {"value": ELECTRA, "when": {"model.backbone": BERT}},
            "optim.layer_decay": {"values": [0.9, 0.8], "when": {"model.backbone": [ELECTRA, "skt/kobert-base-v1"]}},
        },
        search={"points": [{"model.backbone": ELECTRA, "optim.layer_decay": 0.8}]},
    )
    assert study.space["model.backbone"].ends() == [bert, electra, "skt/kobert-base-v1"]
    assert study.space["optim.layer_decay"].when == {"model.backbone": [electra, "skt/kobert-base-v1"]}
    assert study.search.points[0]["model.backbone"] == electra
    assert study.example_values() == {"model.backbone": electra, "optim.layer_decay": 0.8}
    with_bert = study.train_config({"model.backbone": bert}).model
    assert (with_bert.backbone, with_bert.tokenizer) == (bert, electra)
    assert study.train_config({"model.backbone": "skt/kobert-base-v1"}).model.tokenizer is None
    dump_study(study, tmp_path / "dumped.yaml")
    assert load_study(tmp_path / "dumped.yaml") == study


def test_an_override_starts_from_the_current_folder(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "models")
    study = load("parameters.model.backbone={values: [./bert, ./roberta]}")
    assert [Path(str(value)) for value in study.space["model.backbone"].ends()] == [
        Path.cwd() / "bert",
        Path.cwd() / "roberta",
    ]


def test_one_encoder_is_fixed_or_several_are_searched(load: Load) -> None:
    with pytest.raises(InputError, match=r"`model.backbone` has a fixed value here, but it is searched"):
        load(model={"backbone": BERT})
    with pytest.raises(InputError, match=r"`model.backbone` must be a valid string, but got 5"):
        load("parameters.model.backbone={values: [5, 6]}")
    assert load().model.backbone is None


def test_each_encoder_is_told_apart_by_a_short_name(load: Load, tmp_path: Path) -> None:
    study = load(parameters={"model.tokenizer": {"values": [BERT, ELECTRA], "when": {"model.backbone": BERT}}})
    found = encoders_of(study)
    assert [each.name for each in found] == [
        "bert with the tokenizer bert",
        "bert with the tokenizer electra",
        "electra",
    ]
    assert all(each.is_searched for each in found)
    assert [sorted(each.sources) for each in found] == [["backbone", "tokenizer"]] * 2 + [["backbone"]]
    fixed = encoders_of(load("parameters={}", f"model.backbone={tmp_path}/models/bert"))
    assert [(each.name, each.is_searched, each.values) for each in fixed] == [("bert", False, {})]
    names = short_names(["/runs/a/checkpoint-1000", "/runs/b/checkpoint-1000", "/models/bert", "klue/roberta-base"])
    assert list(names.values()) == ["a/checkpoint-1000", "b/checkpoint-1000", "bert"]
    assert short_names(["/bert", "/models/bert"]) == {"/bert": "/bert", "/models/bert": "models/bert"}


def test_what_is_wrong_with_one_encoder_is_told_with_its_name(load: Load, models: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(models / "electra", bad)
    values = {"values": [BERT, "../bad"]}
    check_study(load(parameters={"model.backbone": values}), None)
    (bad / "model.safetensors").rename(bad / "kept")
    with pytest.raises(InputError, match=r'weights of .* cannot be loaded .*searched: \{"model.backbone": "bad"\}'):
        check_study(load(parameters={"model.backbone": values}), None)
    (bad / "kept").rename(bad / "model.safetensors")
    lower = json.loads((bad / "tokenizer.json").read_text())
    lower["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    lower["normalizer"] |= {"lowercase": True, "strip_accents": True}
    (bad / "tokenizer.json").write_text(json.dumps(lower))
    with pytest.raises(InputError, match=r'makes \[UNK\] of Hangul.*searched: \{"model.backbone": "bad"\}'):
        check_study(load(parameters={"model.backbone": values}), None)
    roberta = {"values": [BERT, "../models/roberta"]}
    too_long = r'examples of 65 tokens .* 64 positions.*"model.backbone": "roberta"'
    with pytest.raises(InputError, match=too_long):
        check_study(load("data.max_length=65", parameters={"model.backbone": roberta}), None)


def test_an_encoder_is_checked_with_what_depends_on_it(load: Load) -> None:
    freeze = {"min": 1, "max": 3}
    check_study(load(parameters={"model.freeze": freeze | {"when": {"model.backbone": ELECTRA}}}), None)
    with pytest.raises(InputError, match=r"3 layers cannot be frozen: the encoder has 2.*searched: .*bert"):
        check_study(load(parameters={"model.freeze": freeze}), None)


def test_the_largest_checkpoint_counts_and_the_data_is_surveyed_once(load: Load, tmp_path: Path) -> None:
    checked = prepare(load(), tmp_path / "sweeps" / "one")
    sizes = [checkpoint_bytes(task.build_on_meta()) for _, task in checked.tasks]
    assert len(set(sizes)) == 2 and checked.checkpoint == max(sizes)
    assert checked.disk_needs(running=1).checkpoint == max(sizes)
    half = prepare(load("model.freeze=2"), tmp_path / "sweeps" / "one")
    assert half.checkpoint < checked.checkpoint, "what is frozen has no moments"
    facts, _ = survey(checked, None)
    keys = [key for key, _ in facts]
    assert keys.count("classes in train") == 1 and len(keys) == len(set(keys))
    assert {"encoder bert", "encoder electra", "texts cut off, bert", "texts cut off, electra"} <= set(keys)
    assert dict(facts)["encoder electra"].startswith("electra, 0.0M weights")


def test_a_population_is_of_one_encoder(load: Load) -> None:
    """A trial that copies another's weights would load those of another shape."""
    with pytest.raises(InputError, match=r"`model.backbone` cannot change in the middle of a run, as .*pbt.* would"):
        load(scheduler={"name": "pbt"}, parameters={"optim.backbone_lr": {"min": 1e-5, "max": 1e-4}})


def test_all_files_of_all_encoders_count(load: Load, models: Path, tmp_path: Path) -> None:
    study = load()
    assert {file.parent.name for file in files_of(study) if file.name == "config.json"} == {"bert", "electra"}
    assert is_here(study) and not is_here(
        load("parameters.model.backbone={values: [klue/bert-base, klue/roberta-base]}")
    )
    found = files_under(study)
    assert {"model.backbone of bert", "model.backbone of electra"} < found.keys()
    (tmp_path / "sweep").mkdir()
    write_provenance(tmp_path / "sweep", study)
    assert refuse_other_provenance(tmp_path / "sweep", study) == []
    config = (models / "electra" / "config.json").read_bytes()
    (models / "electra" / "config.json").write_bytes(config + b"\n")
    try:
        message = r"models/electra: `model.backbone of electra`: \"config.json\" has another content than when"
        with pytest.raises(InputError, match=message):
            refuse_other_provenance(tmp_path / "sweep", study)
    finally:
        (models / "electra" / "config.json").write_bytes(config)


def test_workers_import_the_families_that_they_will_need(load: Load, tmp_path: Path) -> None:
    names = modules_for(load())
    families = [name.rpartition(".")[2] for name in names if name.startswith("transformers.")]
    assert families == ["modeling_bert", "modeling_electra"]
    assert all(importlib.import_module(name) for name in names)
    unknown = load("parameters.model.backbone={values: [klue/not-downloaded, ./nothing]}")
    assert not [name for name in modules_for(unknown) if name.startswith("transformers.")]
    new = load("parameters={}", "model={init: random, tokenizer_vocab_size: 1000}")
    assert "transformers.models.bert.modeling_bert" in modules_for(new)


def test_people_read_the_names_of_encoders_and_not_their_paths(load: Load, tmp_path: Path) -> None:
    study = load()
    records = [
        TrialRecord(number, TrialState.COMPLETE, dict(values), best_progress=100)
        for number, values in enumerate(study.space.corners(10))
    ]
    assert [values_as_text(record, short_values(records)) for record in records] == [
        "backbone=bert",
        "backbone=electra",
    ]
    card = model_card(tmp_path, study, records[1], {}, Comparison())
    assert "encoder `electra`" in card and "| `model.backbone` | electra |" in card
    assert "base_model" not in card and str(tmp_path) not in card
    hub = load("parameters.model.backbone={values: [klue/bert-base, klue/roberta-base]}")
    record = TrialRecord(0, TrialState.COMPLETE, {"model.backbone": "klue/roberta-base"}, best_progress=100)
    assert "base_model: klue/roberta-base" in model_card(tmp_path, hub, record, {}, Comparison())


def test_what_no_class_of_transformers_has_is_told_once_before_a_sweep_and_in_the_card(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = {"model.pooling": {"values": ["auto", "mean"]}, "model.keep_layers": {"values": [1, 2]}}
    check_study(load(parameters=space), None)
    assert [each.getMessage() for each in caplog.records if "no class of" in each.message] == [NO_CLASS_OF_TRANSFORMERS]
    caplog.clear()
    check_study(load(parameters={"model.keep_layers": {"values": [1, 2]}}), None)
    assert "no class of" not in caplog.text
    fixed = {"model.backbone": {"value": BERT}, "model.pooling": {"value": "mean"}}
    one = load("data.max_train_examples=32", "data.max_unknown_rate=1.0", parameters=fixed)
    told: list[str] = []
    train_once(one, say=told.append, cache=tmp_path / "cache", output=tmp_path / "export")
    assert NO_CLASS_OF_TRANSFORMERS in told
    assert f"**Note:** {NO_CLASS_OF_TRANSFORMERS}." in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    answers = Predictor.load(tmp_path / "export", device="cpu").predict([{"text": "정말 좋았다"}])
    assert answers[0]["label"] in ("0", "1")


def test_a_part_of_a_space_has_what_its_conditions_need() -> None:
    space = Space.from_dict(
        {
            "a": {"values": [1, 2]},
            "b": {"values": [1, 2], "when": {"a": 1}},
            "c": {"min": 0.0, "max": 1.0},
            "d": {"values": [3], "when": {"b": 2}},
        }
    )
    assert list(space.part(["d", "nothing"])) == ["a", "b", "d"]
    assert list(space.corners(100, {"a": 2})) == [{"a": 2, "c": 0.0}, {"a": 2, "c": 1.0}]
    assert {values["a"] for values in space.corners(3, {"a": 1})} == {1}, "also when they are drawn"
