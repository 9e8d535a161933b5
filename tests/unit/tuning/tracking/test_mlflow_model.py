"""An exported folder as a model that MLflow loads, with random weights, for every task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException
from packaging.requirements import Requirement

from kobert_core.errors import InputError
from kobert_core.inference import Predictor
from tests.fixtures import tasks
from tests.fixtures.commands import ROOT
from tests.fixtures.tasks import CONFIGS, REVIEWS, exported_model
from tuning.tracking.mlflow_model import IMPORTED, pinned, write_mlflow_model

QUESTION = {"context": "민수는 부산에서 사과 12개를 샀다.", "question": "민수는 부산에서 몇 개 샀는가?"}
OUTPUTS = {
    "nsmc": {"label": "string", "name": "string", "probability_negative": "double", "probability_positive": "double"},
    "pairs": {"label": "string", "name": "string"} | {f"probability_{label}": "double" for label in "012"},
    "multilabel": {"labels": "array"} | {f"probability_{name}": "double" for name in ("욕설", "차별", "광고")},
    "regression": {"score": "double"},
    "tokens": {"entities": "array"},
    "korquad": {"prediction_text": "string", "score": "double", "start": "long", "end": "long"},
}


def rows_for(columns: tuple[str, ...]) -> list[dict[str, object]]:
    texts = [f"{text} {number}" for number, text in enumerate(REVIEWS)]
    values = {"text": texts, "pair": texts[::-1]} | {name: [text] * len(texts) for name, text in QUESTION.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*(values[name] for name in columns), strict=True)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each task the folder of a model, as an export makes it, and beside it what MLflow is sent."""
    made = {}
    for make in CONFIGS:
        folder = tmp_path_factory.mktemp(make.__name__)
        made[make.__name__] = exported_model(make(folder), folder / make.__name__)
        write_mlflow_model(folder / "mlflow", made[make.__name__], model_id="m-1", run_id="ab")
    return made


@pytest.fixture(params=OUTPUTS)
def exported(request: pytest.FixtureRequest, models: dict[str, Path]) -> Path:
    return models[request.param]


def test_it_answers_as_the_exported_model_does(exported: Path) -> None:
    import mlflow.pyfunc

    loaded, ours = mlflow.pyfunc.load_model(str(exported.parent / "mlflow")), Predictor.load(exported)
    rows = rows_for(ours.columns)
    frame = pd.DataFrame(rows)
    found = loaded.predict(frame.assign(another=1))
    assert found.to_dict("records") == ours.predict(rows)
    assert loaded.predict(rows[0]).to_dict("records") == ours.predict(rows[:1])
    assert loaded.predict(loaded.input_example).to_dict("records") == ours.predict(
        loaded.input_example.to_dict("records")
    )
    nothing = loaded.predict(frame.iloc[:0])
    assert list(nothing) == list(found) and nothing.empty
    json.dumps(found.to_dict("records"))


def test_its_signature_says_what_goes_in_and_what_comes_out(exported: Path) -> None:
    content = yaml.safe_load((exported.parent / "mlflow" / "MLmodel").read_text(encoding="utf-8"))
    signature = {side: json.loads(content["signature"][side]) for side in ("inputs", "outputs")}
    columns = Predictor.load(exported).columns
    assert {each["name"]: each["type"] for each in signature["inputs"]} == dict.fromkeys(columns, "string")
    assert {each["name"]: each["type"] for each in signature["outputs"]} == OUTPUTS[exported.name]
    if exported.name == "tokens":
        fields = signature["outputs"][0]["items"]["properties"]
        assert {name: field["type"] for name, field in fields.items()} == {
            "start": "long", "end": "long", "label": "string", "text": "string", "score": "double"
        }  # fmt: skip
    assert (content["model_id"], content["run_id"]) == ("m-1", "ab")
    whole = sum(path.stat().st_size for path in (exported.parent / "mlflow").rglob("*") if path.is_file())
    assert content["model_size_bytes"] == pytest.approx(whole, abs=1000)
    assert str(ROOT) not in (exported.parent / "mlflow" / "MLmodel").read_text(encoding="utf-8")


@pytest.mark.parametrize(("bad", "why"), [(None, "missing"), (float("nan"), "missing"), ("", "empty"), (3, "string")])
def test_a_row_that_cannot_be_answered_is_named(exported: Path, bad: object, why: str) -> None:
    import mlflow.pyfunc

    loaded = mlflow.pyfunc.load_model(str(exported.parent / "mlflow"))
    frame = pd.DataFrame(rows_for(Predictor.load(exported).columns)).astype(object)
    frame.iloc[2, 0] = bad
    with pytest.raises(MlflowException, match=rf"^row 3: .*{why}") as refused:
        loaded.predict(frame)
    assert refused.value.get_http_status_code() == 400


def test_transformers_loads_the_same_folder(exported: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = exported.parent / "mlflow"
    assert AutoModel.from_pretrained(folder).config.model_type == "bert"
    assert AutoTokenizer.from_pretrained(folder)(REVIEWS[0])["input_ids"]


def test_its_requirements_are_all_that_it_imports(models: dict[str, Path], tmp_path: Path) -> None:
    """In a process that has nothing of the checkout but what travels with the models."""
    folders = [str(model.parent / "mlflow") for model in models.values()]
    asking = """\
import sys, mlflow.pyfunc
from pathlib import Path
for folder in sys.argv[1:]:
    model = mlflow.pyfunc.load_model(folder)
    model.predict(model.input_example)
ours = [module for name, module in sys.modules.items() if name.partition('.')[0] == 'kobert_core']
assert all(Path(module.__file__).is_relative_to(sys.argv[1]) for module in ours) and len(ours) > 10
assert not {'tuning', 'search_spaces', 'ray', 'optuna', 'sklearn.metrics'} & sys.modules.keys()
for module in ours:
    for value in vars(module).values():
        print(str(getattr(value, '__module__', None) or getattr(value, '__name__', '')).partition('.')[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", asking, *folders],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_module = packages_distributions()
    imported = {name for module in set(done.stdout.split()) for name in by_module.get(module, [])}
    imported -= {"kobert-tuning", "pydantic_core"}  # pydantic asks for the one version of its core
    assert {"torch", "pydantic", "numpy"} <= imported <= set(IMPORTED)
    for folder in folders:
        found = (Path(folder) / "requirements.txt").read_text(encoding="utf-8").splitlines()
        assert [str(Requirement(line)) for line in found] == found == pinned(IMPORTED)


def test_a_build_of_an_own_index_is_asked_for_by_its_public_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.tracking.mlflow_model.version", lambda name: "2.13.0+cu128")
    assert pinned(["torch"]) == ["torch==2.13.0"]


def test_a_folder_that_was_not_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is no folder of an exported model"):
        write_mlflow_model(tmp_path / "model", tmp_path, model_id="m-1", run_id=None)


def test_a_lock_file_of_the_current_folder_does_not_become_part_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuning.tracking.mlflow_store import prepare_environment

    monkeypatch.delenv("MLFLOW_UV_AUTO_DETECT", raising=False)
    prepare_environment()
    for name in ("uv.lock", "pyproject.toml"):
        (tmp_path / name).write_text("[project]\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = tasks.model_without_weights(tmp_path / "exported")
    write_mlflow_model(tmp_path / "model", model, model_id="m-1", run_id=None)
    assert not (tmp_path / "model" / "uv.lock").exists()
