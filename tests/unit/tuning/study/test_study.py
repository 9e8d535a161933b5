"""A study file is a study, or one line that says what is wrong with it, and where."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from kobert_core.config import DataConfig, FrozenConfig, ModelConfig
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.tasks import SPECS, parse_train_config
from kobert_core.tasks.text_classification.config import NsmcData
from search_spaces.distributions import Space
from tuning.study import SearchConfig, StudyConfig, dump_study, load_study, searchable

NSMC = Path(__file__).parents[4] / "search_spaces" / "nsmc.yaml"
STUDY = """\
schema_version: 1
name: small
task: nsmc
data:
  train: data/train.txt
  max_length: 64
model:
  init: random
  tokenizer: ./tokenizer
  config: {hidden_size: 128}
optim:
  batch_size: 16
train:
  epochs: 2
parameters:
  optim.backbone_lr: {distribution: log_uniform, min: 1e-5, max: 1e-4}
  optim.classifier_lr: {distribution: log_uniform, min: 1e-5, max: 1e-3}
  optim.accumulation: {values: [1, 2, 4]}
  model.label_smoothing: {min: 0.0, max: 0.2}
search:
  points:
    - optim.backbone_lr: 5e-5
      optim.accumulation: 2
"""


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(text: str, *overrides: str) -> StudyConfig:
        file = tmp_path / "study.yaml"
        file.write_text(text, encoding="utf-8")
        return load_study(file, overrides)

    return load


def refusal(load: Any, *overrides: str, text: str = STUDY) -> str:
    with pytest.raises(InputError) as error:
        load(text, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_who_shares_a_gpu_may_fill_its_own_part_of_the_memory(load: Any) -> None:
    text = STUDY.replace("  optim.accumulation: {values: [1, 2, 4]}\n", "").replace("      optim.accumulation: 2\n", "")
    text = text.replace("batch_size: 16", "batch_size: auto\n  effective_batch_size: 64")
    assert load(text, "resources={gpus_per_worker: 0.5}").optim.batch_size == "auto"


def test_a_study_makes_the_config_of_a_run(load: Any, tmp_path: Path) -> None:
    study = load(STUDY)
    assert isinstance(study.data, NsmcData) and study.data.train == Source.of(tmp_path / "data" / "train.txt")
    assert (study.objective.metric, study.objective.mode, study.budget.trials) == ("eval/accuracy", "max", 20)
    values = {"optim.backbone_lr": 3e-5, "optim.accumulation": 4, "model.label_smoothing": 0.1}
    config = study.train_config(values)
    assert (config.optim.backbone_lr, config.optim.accumulation) == (3e-5, 4)
    assert (config.model.label_smoothing, config.optim.classifier_lr) == (0.1, 5e-5)
    assert (config.optim.batch_size, config.train.epochs, config.data.max_length) == (16, 2, 64)
    assert config.objective == study.objective
    assert parse_train_config(config.model_dump()) == config
    for name, wrong in (("optim.backbone_lr", 1.0), ("optim.eps", 1e-8), ("optim.accumulation", 3), ("nothing", 2.0)):
        with pytest.raises(InputError, match=name):
            study.train_config({name: wrong})


def test_constants_and_conditions_reach_the_config(load: Any) -> None:
    study = load(
        STUDY,
        "parameters.train.seed={value: 7}",
        "parameters.optim.schedule={values: [linear, constant]}",
        "optim.weight_decay=0.3",
        "parameters.optim.weight_decay={values: [0.1, 0.2], when: {optim.schedule: constant}}",
    )
    linear = study.train_config({"optim.schedule": "linear"})
    assert (linear.train.seed, linear.optim.weight_decay) == (7, 0.3)
    constant = study.train_config({"optim.schedule": "constant", "optim.weight_decay": 0.2})
    assert (constant.optim.schedule, constant.optim.weight_decay) == ("constant", 0.2)


def test_example_values_are_the_first_point_and_the_middle_of_what_it_leaves_out(load: Any) -> None:
    study = load(STUDY, "parameters.train.seed={min: 1, max: 9, q: 4}", "parameters.optim.layer_decay={value: 0.9}")
    values = study.example_values()
    assert values.pop("optim.classifier_lr") == pytest.approx(1e-4)
    assert values == {"optim.backbone_lr": 5e-5, "optim.accumulation": 2, "model.label_smoothing": 0.1,
                      "train.seed": 5, "optim.layer_decay": 0.9}  # fmt: skip
    study.train_config(values)
    without = load(STUDY, "search={}").example_values()
    assert without["optim.accumulation"] == 1 and without["optim.backbone_lr"] == pytest.approx(10**-4.5)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("schema_version: 1", "schema_version: 2", 1, "`schema_version` must be 1, but got 2"),
        ("name: small", "name: a/b", 2, "a name has letters, digits, `_`, `-` and `.`"),
        ("name: small", "nam: small", 2, "unknown key `nam`; did you mean `name`? (1 more problem in this file)"),
        ("task: nsmc", "task: nmsc", 3, '`task` cannot be "nmsc"; did you mean `nsmc`?'),
        ("task: nsmc", "task: [nsmc]", 3, '`task` cannot be ["nsmc"]'),
        ("  train: data/train.txt", "  trian: data/train.txt", 5, "unknown key `data.trian`; did you mean `train`?"),
        ("  train: data/train.txt", "  dev: x", 4, "`data.train` must be given"),
        ("max_length: 64", "max_length: 64.0", 6, "`data.max_length` must be a valid integer, but got 64.0"),
        ("max_length: 64", "max_length: '64'", 6, '`data.max_length` must be a valid integer, but got "64"'),
        ("max_length: 64", "labels: {0: bad}", 6, "`data.labels`: Dictionary should have at least 2 items"),
        ("  init: random", "  init: rndom", 8, "`model.init` must be 'pretrained' or 'random', but got \"rndom\""),
        ("  init: random", "  initt: random", 8, "unknown key `model.initt`; did you mean `init`?"),
        ("init: random", "init: pretrained", 7, "`model`: `backbone` must be given with `init: pretrained`"),
        ("batch_size: 16", "batchsize: 16", 12, "unknown key `optim.batchsize`; did you mean `batch_size`?"),
        ("batch_size: 16", "batch_size: true", 12, "must be a valid integer or 'auto', but got true"),
        ("epochs: 2", "epochs: 0", 14, "`train.epochs` must be greater than 0, but got 0"),
        ("epochs: 2", "eval_percent: 30", 14, "`eval_percent` must divide 100, but got 30"),
        ("optim.backbone_lr: {", "optim.backbne_lr: {", 16, "did you mean `optim.backbone_lr`?"),
        ("optim.backbone_lr: {", "data.split_seed: {", 16, "`data.split_seed` is not a parameter that can be searched"),
        ("min: 1e-5, max: 1e-4", "min: 1e-3, max: 1e-4", 16, "`min < max` must hold, but got min=0.001, max=0.0001"),
        ("min: 0.0, max: 0.2", "min: -0.1, max: 0.2", 19, "`model.label_smoothing` must be greater than or equal to 0"),
        ("min: 0.0, max: 0.2", "min: 0.0, max: 1.0", 19, "`model.label_smoothing` must be less than 1, but got 1.0"),
        ("[1, 2, 4]", "[2, four]", 18, '`optim.accumulation` must be a valid integer, but got "four"'),
        ("lr: 5e-5", "lr: 5e-3", 22, "`optim.backbone_lr` cannot be 0.005; it is searched as log_uniform, min 1e-05"),
        ("      optim.accumulation", "      optim.acumulation", 23, "did you mean `optim.accumulation`?"),
        ("  batch_size: 16", "  batch_size: 16\n  accumulation: 2", 13, "`optim.accumulation` has a fixed value here"),
        ("batch_size: 16", "effective_batch_size: 64", 18, "give `accumulation` or `effective_batch_size`, not both"),
        ("  points:", "  seed: -1\n  points:", 21, "`search.seed` must be greater than or equal to 0"),
        ("data:\n", "data: &d\n  <<: {}\n", 5, "merge keys"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(load: Any, tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    assert STUDY.count(old) == 1
    message = refusal(load, text=STUDY.replace(old, new))
    assert words in message
    assert message.startswith(f"{tmp_path / 'study.yaml'}:{line}: ")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.metric=eval/acuracy", "did you mean `eval/accuracy`?"),
        ("objective={metric: eval/loss}", "`objective.mode` must be given; max or min"),
        ("objective={metric: eval/loss, mode: low}", "`objective.mode` must be 'max' or 'min'"),
        ("objective={mode: min}", "`objective.metric` must be given"),
        ("search.algorithm=tp", "`search.algorithm` must be 'tpe', 'gp', 'random', 'grid' or 'cmaes'"),
        ("search.algorithm=grid", "a grid search tries every point: leave out `points`"),
        ("search={algorithm: grid}", "`optim.backbone_lr` is continuous: it has no grid; give it `values`"),
        ("search={points: 3}", "`search.points`"),
        ("scheduler.name=hyper", "`scheduler.name` must be"),
        ("scheduler.grace_percent=0", "greater than or equal to 1"),
        ("resources.workers=0", "`resources.workers` must be greater than or equal to 1"),
        ("resources={workers: 2, gpus_per_worker: 0.5}", "needs `workers: 1`, but got 2"),
        ("resources.gpus_per_worker=2", "less than or equal to 1"),
        ("resources.concurrent=many", "`resources.concurrent` must be a valid integer or 'auto'"),
        ("budget.wall_time=3 parsecs", "a duration is written like 90s, 10m, 2h or 1h30m"),
        ("budget.wall_time=0s", "must be greater than 0"),
        ("budget.trails=3", "unknown key `budget.trails`; did you mean `trials`?"),
        ("tracking.uri=''", "at least 1 character"),
        ("keep_checkpoints=0", "`keep_checkpoints` must be greater than or equal to 1"),
        ("optim=3", "`optim` must be a mapping of keys to values, but got 3"),
        ("data={train: a.tsv, dev: b.tsv, folds: 5}", "`data`: give `dev` or `folds`, not both"),
        ("data={train: a.tsv, dev_fraction: 0.1, folds: 5}", "`data`: give `dev_fraction` or `folds`, not both"),
        ("data.folds=1", "`data.folds` must be greater than or equal to 2, but got 1"),
        ("data.n_splits=5", "unknown key `data.n_splits`; did you mean `folds`?"),
        ("optim={warmup_ratio: 0.1, warmup_steps: 9}", "give `warmup_ratio` or `warmup_steps`, not both"),
        ("confirm=true", "`confirm` must be a mapping of keys to values, but got true"),
        ("confirm={tops: 3}", "unknown key `confirm.tops`; did you mean `top`?"),
        ("confirm={seeds: 1}", "`confirm.seeds` must be greater than or equal to 2, but got 1"),
        ("data={train: x, holdout_fraction: 1}", "`data.holdout_fraction` must be less than 1"),
        ("data={train: x, holdout_fraction: 0}", "`data.holdout_fraction` must be greater than 0"),
        ("model.class_weights=even", "`model.class_weights` must be 'balanced' or a valid"),
    ],
)
def test_a_wrong_value_is_one_line(load: Any, tmp_path: Path, override: str, words: str) -> None:
    message = refusal(load, override)
    assert words in message
    assert message.startswith(("--set ", str(tmp_path / "study.yaml:")))


def test_a_population_has_no_folds(load: Any) -> None:
    space = "parameters={optim.backbone_lr: {min: 1e-5, max: 1e-4}}"
    message = refusal(load, space, "search={}", "scheduler.name=pbt", "data.folds=5")
    assert message == (
        "--set data.folds=5: `scheduler.name: pbt` goes on from other trials' weights, but with `data.folds` a trial "
        "has many; remove `data.folds`, or use another scheduler"
    )


RATE_ALONE = "parameters={optim.backbone_lr: {min: 1e-5, max: 1e-3}}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.folds=5"], "with `data.folds` trials are chosen by all; leave out `confirm`, or `data.folds`"),
        (["data.folds=5", "data.holdout_fraction=0.3"], "give `holdout_fraction` or `folds`, not both"),
        (["data.holdout_fraction=null"], "`confirm` needs a part of the dev split that no trial is chosen by"),
        (["objective={metric: train/loss, mode: min}"], "where there is no `train/loss`; take one of the task's"),
        (["search={baselines: []}"], "`confirm` compares with a baseline, but `search.baselines` names none"),
        (
            ["search={}", RATE_ALONE, "scheduler.name=pbt"],
            "no trial can be trained again as it was; leave out `confirm`",
        ),
    ],
)
def test_a_confirmation_that_could_say_nothing_is_refused(load: Any, overrides: list[str], words: str) -> None:
    assert words in refusal(load, "confirm={}", *overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["distill={}"], "`distill.soft_labels` must be given"),
        (["distill={soft_labels: a.jsonl, weight: 2}"], "`distill.weight`"),
        (["distill={soft_labels: a.jsonl, temperature: 0}"], "`distill.temperature`"),
        (["distill={soft_label: a.jsonl}"], "unknown key `distill.soft_label`"),
        (["parameters.distill.weight={min: 0, max: 1}"], "`distill.weight` is searched, but there is no `distill`"),
        (["distill={soft_labels: a.jsonl}", "model.class_weights=balanced"], "a teacher's answers have no class"),
        (["distill={soft_labels: a.jsonl}", "data.folds=5"], "a teacher has seen the rows of all folds"),
        (
            ["distill={soft_labels: a.jsonl}", "task=korquad", "parameters={}", "search={}", "data={train: a.json}"],
            "cannot learn from a teacher",
        ),
        (["model.keep_layers=2"], "`keep_layers` are those of a `backbone`"),
    ],
)
def test_a_student_that_cannot_learn_is_refused(load: Any, overrides: list[str], words: str) -> None:
    assert words in refusal(load, *overrides)


def test_soft_labels_have_an_absolute_path_and_must_be_there(load: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.txt").write_text("id\tdocument\tlabel\n1\t좋다\t1\n", encoding="utf-8")
    study = load(STUDY.replace("optim:\n", "distill: {soft_labels: said.jsonl}\noptim:\n", 1))
    assert str(study.sources["distill.soft_labels"]) == str(tmp_path / "said.jsonl")
    with pytest.raises(InputError, match=r"said.jsonl: the soft labels cannot be read .* `kobert-tune distill`"):
        study.check_files()
    assert study.train_config(study.example_values()).distill == study.distill


def test_a_third_of_dev_is_held_out_for_a_confirmation(load: Any) -> None:
    assert load(STUDY).data.holdout_fraction is None
    assert load(STUDY, "confirm={}").data.holdout_fraction == pytest.approx(1 / 3, abs=1e-3)
    assert load(STUDY, "confirm={}", "data.holdout_fraction=0.5").data.holdout_fraction == 0.5
    assert load(STUDY, "confirm=null").confirm is None


def test_searched_warmup_steps_do_not_go_with_a_fixed_ratio(load: Any) -> None:
    message = refusal(load, "optim.warmup_ratio=0.1", "parameters.optim.warmup_steps={min: 1, max: 9}")
    assert message.startswith("--set parameters.optim.warmup_steps={min: 1, max: 9}: ")
    assert "give `warmup_ratio` or `warmup_steps`, not both" in message
    load(STUDY, "parameters.optim.warmup_steps={min: 1, max: 9}")


def test_algorithms_that_need_every_parameter_in_every_trial(load: Any) -> None:
    condition = "parameters.train.seed={values: [1, 2], when: {optim.accumulation: 2}}"
    for algorithm in ("cmaes", "grid"):
        message = refusal(load, condition, f"search={{algorithm: {algorithm}}}")
        assert "needs all parameters in every trial, but `parameters.train.seed.when` is there" in message
    assert load(STUDY, condition).space.has_conditions
    load(STUDY, "search={algorithm: cmaes}")


def test_a_grid_has_as_many_trials_as_points(load: Any) -> None:
    grid = "parameters={optim.accumulation: {values: [1, 2, 4]}, train.seed: {min: 1, max: 5}}"
    study = load(STUDY, grid, "search={algorithm: grid}")
    assert study.budget.trials == 15
    assert load(STUDY, grid, "search={algorithm: grid}", "budget.trials=4").budget.trials == 4


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1d 1s", 86401), ("12.5", 12.5)]
)
def test_durations(load: Any, text: str, seconds: float) -> None:
    assert load(STUDY, f"budget.wall_time={text}").budget.wall_time == seconds


def test_paths_start_from_the_study_file_and_those_of_overrides_from_here(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "skt").mkdir(parents=True)
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    study = load(STUDY, "data.test=test.txt", "model.backbone=skt")
    assert study.data.train == Source.of(tmp_path / "data" / "train.txt")
    assert study.data.test == Source.of(tmp_path / "here" / "test.txt")
    assert (study.model.backbone, study.model.tokenizer) == (f"{tmp_path}/here/skt", f"{tmp_path}/tokenizer")
    by_name = STUDY.replace("./tokenizer", "org/model\n  backbone: skt/kobert-base-v1")
    assert load(by_name).model.tokenizer == f"{tmp_path}/org/model", "a folder that is there"
    assert load(by_name).model.backbone == "skt/kobert-base-v1", "a name on the hub"


def test_check_tries_points_and_corners(load: Any) -> None:
    study = load(STUDY)
    study.check()
    search = study.search.model_copy(update={"points": ({"optim.accumulation": 2}, {"optim.accumulation": 3})})
    with pytest.raises(InputError, match=r"point 1 cannot be trained with: `optim.accumulation` cannot be 3"):
        study.model_copy(update={"search": search}).check()
    good = {f"optim.{name}": {"min": 1, "max": 9} for name in ("batch_size", "warmup_steps", "accumulation")}
    schedule = {"optim.schedule": {"values": ["linear", "constant", "cosine"]}}
    space = Space.from_dict(good | schedule)
    with pytest.raises(InputError, match=r"`optim.schedule` must be 'linear' or 'constant', but got \"cosine\""):
        study.model_copy(update={"search": SearchConfig(), "space": space}).check()


def test_what_can_be_searched() -> None:
    names = searchable(SPECS["nsmc"])
    required = (
        "optim.backbone_lr optim.classifier_lr optim.warmup_ratio optim.warmup_steps optim.accumulation "
        "optim.effective_batch_size optim.batch_size optim.weight_decay optim.layer_decay train.epochs train.seed "
        "data.max_length model.dropout model.label_smoothing model.class_weights"
    )
    assert set(required.split()) <= set(names)
    assert not any("column" in name or "labels" in name for name in names)
    sections: dict[str, type[FrozenConfig]] = {"data": DataConfig, "model": ModelConfig}
    forbidden = {f"{section}.{name}" for section, base in sections.items() for name in base.model_fields}
    encoder = {"model.backbone", "model.tokenizer", "model.revision"}
    dropouts = {"model.dropout", "model.hidden_dropout", "model.attention_dropout"}
    assert set(names) & forbidden == encoder | dropouts | {"model.freeze", "model.keep_layers"}
    teacher = {"distill.weight", "distill.temperature"}
    assert teacher <= set(names) and not teacher & set(searchable(SPECS["korquad"]))


OVERRIDES = [
    [],
    ["optim.max_grad_norm=null", "data.labels={0: 부정, 1: 'no', '1e-5': '1e-5'}", "train.epochs=0.5"],
    ["parameters={}", "search={}", "optim={effective_batch_size: 64, warmup_steps: 10}"],
    ["search={}", "parameters={optim.effective_batch_size: {values: [8]}, optim.warmup_steps: {min: 0, max: 9}}"],
    ["parameters.optim.weight_decay={values: [0.1], when: {optim.accumulation: [1, 2]}}", "optim.weight_decay=0.2"],
    ["parameters={train.seed: {min: 0, max: 9}}", "search={algorithm: grid, storage: 'sqlite:///x'}"],
    ["budget={wall_time: 1h30m, gpu_hours: 3}", "resources={gpus_per_worker: 0.25, concurrent: 3}"],
    ["tracking={uri: 'http://x:5000', experiment: '실험 #1: \"a\" \\ b'}", "model.class_weights=[0.5, 1]"],
    ["data.folds=5", "scheduler.grace_percent=50"],
    ["confirm={top: 2, tie: cheapest}", "data.split_seed=7"],
    ["distill={soft_labels: said.parquet}", "parameters.distill.weight={values: [0.5, 1.0]}"],
    ["objective={metric: eval/loss, mode: min}", "scheduler.name=none", "keep_checkpoints=1", "model.config={}"],
]


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_a_study_that_is_written_is_read_as_the_same(load: Any, tmp_path: Path, overrides: list[str]) -> None:
    study = load(STUDY, *overrides)
    file = tmp_path / "elsewhere" / "resolved.yaml"
    dump_study(study, file)
    again = load_study(file)
    assert again == study
    assert again.resolved() == study.resolved()
    assert again.model_dump(mode="json") == study.model_dump(mode="json")
    for values in study.space.corners(50):
        assert again.train_config(values) == study.train_config(values)
    assert os.listdir(file.parent) == ["resolved.yaml"]
    assert pickle.loads(pickle.dumps(study)) == study


def test_a_resolved_study_names_its_defaults(load: Any) -> None:
    resolved = load(STUDY).resolved()
    assert resolved["optim"]["eps"] == 1e-8 and resolved["search"]["startup_trials"] == 10
    assert "accumulation" not in resolved["optim"], "it is searched"


def test_the_published_recipe_is_trial_0_of_the_real_study() -> None:
    study = load_study(NSMC)
    study.check()
    config = study.train_config(study.example_values())
    optim = config.optim
    assert (optim.backbone_lr, optim.classifier_lr, optim.warmup_ratio, optim.max_grad_norm) == (5e-5, 5e-5, 0.1, 1.0)
    assert (optim.examples_per_step(workers=1), config.train.epochs) == (64, 5)
    assert (config.data.max_length, config.model.dropout) == (64, 0.5)  # type: ignore[attr-defined]
    assert study.model.backbone == "skt/kobert-base-v1"
    assert (study.scheduler.name, study.budget.trials, study.resources.gpus_per_worker) == ("asha", 30, 1)


# Anything at all: a study, or an InputError of one line


def load_text(folder: Path, text: str) -> None:
    file = folder / "study.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        study = load_study(file)
    except InputError as error:
        assert "\n" not in str(error) and str(error).startswith(str(file))
        return
    dump_study(study, folder / "again.yaml")
    assert load_study(folder / "again.yaml") == study


FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
WORDS = st.sampled_from(
    ["", "x", "가", "nsmc", "1e-5", "no", "tpe", "random", "optim.backbone_lr", "train.seed", "a\0b", "\ud800", "~",
     "../x", "x" * 300, "1h", "balanced", "auto", "eval/loss", "max", "\u2028", "#", "{", "*a", "&a", "!!set", "<<",
     "\x07", "💥"]
)  # fmt: skip
NUMBERS = st.integers(-3, 70) | st.integers() | st.floats() | st.sampled_from([10**400, 2**63])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS
KEYS = WORDS | st.sampled_from(
    ["min", "max", "q", "values", "value", "when", "distribution", "points", "trials", "algorithm", "epochs", "seed"]
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@FUZZ
@given(st.text(max_size=60) | st.lists(st.sampled_from(STUDY.splitlines()), max_size=12).map("\n".join))
@example("\ufeff" + STUDY)
@example("a: !<tag:yaml.org,2002:int> ''")
@example("? \n: 1")
@example("- ? ")
def test_any_text(tmp_path: Path, text: str) -> None:
    load_text(tmp_path, text)


@FUZZ
@given(st.integers(0, len(STUDY)), st.integers(0, 12), st.text(max_size=3) | WORDS)
def test_any_damage(tmp_path: Path, at: int, length: int, instead: str) -> None:
    load_text(tmp_path, STUDY[:at] + instead + STUDY[at + length :])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in nested values."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *itertools.chain.from_iterable(places(each, (*path, name)) for name, each in inner)]


BASE = YAML(typ="safe", pure=True).load(STUDY) | {
    "objective": {"metric": "eval/loss", "mode": "min"},
    "scheduler": {"name": "asha", "grace_percent": 10, "reduction_factor": 3},
    "resources": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "concurrent": "auto"},
    "budget": {"trials": 3, "wall_time": "2h", "gpu_hours": None, "cpu_hours": 3},
    "tracking": {"uri": None, "experiment": "x"},
    "keep_checkpoints": 3,
}


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(places(BASE)[1:]), KEYS | st.none(), ANYTHING), min_size=1, max_size=3))
def test_any_values(tmp_path: Path, changes: list[tuple[tuple[Any, ...], str | None, Any]]) -> None:
    values = copy.deepcopy(BASE)
    for (*path, last), key, new in changes:
        holder = values
        for name in path:
            holder = holder[name] if isinstance(holder, dict) and name in holder else {}
        if isinstance(holder, dict):
            holder[last if key is None else key] = new
    file = tmp_path / "values.yaml"
    with open(file, "w", encoding="utf-8", errors="surrogatepass") as stream:
        YAML(typ="safe", pure=True).dump(values, stream)
    load_text(tmp_path, file.read_bytes().decode("utf-8", "surrogatepass"))


@FUZZ
@given(st.lists(KEYS | st.sampled_from(["optim", "parameters"]), max_size=4), WORDS | st.text(max_size=20))
def test_any_override(tmp_path: Path, keys: list[str], value: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    try:
        load_study(file, [f"{'.'.join(keys)}={value}"])
    except InputError as error:
        assert "\n" not in str(error)


def test_a_mistyped_key_costs_no_import_of_pytorch(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("model:", "modle:"), encoding="utf-8")
    command = [sys.executable, "-X", "importtime", "-m", "tuning", "sweep", str(file), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "unknown key `modle`; did you mean `model`?" in done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "pydantic" in imported
    assert not imported & {"torch", "transformers", "ray", "mlflow", "optuna", "pandas", "sklearn"}
