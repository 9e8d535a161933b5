"""Versions of a registered model in a real MLflow store (sqlite): which of them gets an alias."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from tests.fixtures.tasks import exported_model, regression, table
from tests.fixtures.tracking import client_of, closed_port
from tuning.sweep.promote_model import Contest, promote_version
from tuning.sweep_dir.test_set_log import read_log
from tuning.tracking import Registry, Tracker, default_tracking_uri, logged_model

NAME = "영화 리뷰's"
WORDS = {"0": "시간이 아까웠다", "1": "정말 재미있어요"}


def reviews(folder: Path) -> dict[str, Any]:
    rows = [f"{WORDS[label]} {number}\t{label}" for number in range(40) for label in WORDS]
    values = table(folder, "classification", "text\tlabel", rows)
    optim = values["optim"] | {"batch_size": 8, "backbone_lr": 3e-3, "classifier_lr": 3e-3}
    return values | {"data": values["data"] | {"labels": list(WORDS)}, "optim": optim, "train": {"epochs": 8}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained model, one with random weights, one of another task, and a file to compare them on."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "other").mkdir()
    values = reviews(folder)
    return {
        "trained": exported_model(values, folder / "trained", trained=True),
        "random": exported_model(values, folder / "random"),
        "numbers": exported_model(regression(folder / "other"), folder / "numbers"),
        "file": folder / "data.tsv",
    }


class Store:
    """A registered model in a store, whose versions are models of a sweep that MLflow has."""

    def __init__(self, output: Path, models: dict[str, Path]) -> None:
        self.output, self.models, self.uri = output, models, default_tracking_uri(output)
        self.spool = output / "sweep" / "tracking.jsonl"
        tracker = Tracker(spool=self.spool, uri=self.uri, experiment="실험", sweep="first")
        tracker.start_sweep(params={}, tags={})
        assert tracker.close(60) == 0 == tracker.refused
        self.registry = Registry(NAME, uri=self.uri)

    def register(self, name: str, *, task: str = "classification") -> int:
        """The number of the version that a model becomes, or is."""
        trial = str(list(self.models).index(name))
        values: dict[str, Any] = {"params": {}, "metrics": {}, "tags": {"task": task}}
        model = logged_model(self.spool, uri=self.uri, model_dir=self.models[name], trial=trial, **values)
        card = (self.models[name] / "README.md").read_text(encoding="utf-8")
        return self.registry.register(model, card=card, tags={"task": task})

    def promote(self, number: int | None = None, *, data: bool = True, force: bool = False) -> tuple[bool, str]:
        source = Source.of(self.models["file"]) if data else None
        contest = Contest(data=source, force=force, say=print)
        found = promote_version(NAME, number, contest, uri=self.uri)
        assert found.name == NAME and found.alias == "champion"
        return found.promoted, found.sentence

    def champion(self) -> int | None:
        holder = self.registry.holder_of("champion")
        return holder.number if holder else None


@pytest.fixture
def store(output: Path, models: dict[str, Path]) -> Iterator[Store]:
    yield Store(output, models)


def test_only_a_better_version_takes_the_alias(store: Store) -> None:
    assert store.register("random") == 1 == store.register("random")
    assert store.promote() == (True, f"{NAME}: version 1 is `champion`: no version was `champion` before")
    assert store.promote() == (True, f"{NAME}: version 1 is `champion`: it was before")
    assert store.register("trained") == 2
    promoted, sentence = store.promote()
    assert promoted and store.champion() == 2, sentence
    assert f"{NAME} version 2 is better than {NAME} version 1 by" in sentence
    promoted, worse = store.promote(1)
    assert (promoted, store.champion()) == (False, 2)
    assert worse.startswith(f"{NAME}: version 1 does not become `champion`: {NAME} version 1 is worse than {NAME}")
    assert store.promote(1, force=True)[0] and store.champion() == 1

    client = client_of(store.output)
    first, second = (client.get_model_version(NAME, str(number)) for number in (1, 2))
    assert first.description.strip() == second.description.strip() == "# A model", "the card, without its front matter"
    assert second.tags["kobert_tune.verdict"] in sentence and "by --force" in first.tags["kobert_tune.verdict"]
    assert [each.number for each in store.registry.versions()] == [2, 1]
    for version in (first, second):  # what read the file is recorded where the models are
        (folder,) = (store.output / "mlartifacts").rglob(f"{version.source.removeprefix('models:/')}/artifacts")
        assert len(read_log(folder)) == 2


def test_models_that_cannot_be_told_apart_leave_the_alias_where_it_is(store: Store, models: dict[str, Path]) -> None:
    store.models = models | {"copy": models["trained"]}
    assert [store.register("trained"), store.register("copy")] == [1, 2]
    assert store.promote(1)[0]
    promoted, sentence = store.promote(2)
    assert (promoted, store.champion()) == (False, 1) and "cannot be told apart" in sentence


def test_mlflow_loads_a_model_by_its_id_and_by_its_alias(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.models

    store.promote(store.register("trained"))
    holder = store.registry.holder_of("champion")
    assert holder is not None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    rows = pd.DataFrame([{"text": "정말 재미있어요 3"}, {"text": "시간이 아까웠다 7"}])
    for uri in (f"models:/{holder.model_id}", f"models:/{NAME}@champion"):
        assert list(mlflow.pyfunc.load_model(uri).predict(rows)["label"]) == ["1", "0"]
    evaluated = mlflow.models.evaluate(
        uri, rows.assign(wanted=["1", "0"]), targets="wanted", model_type="classifier", model_config={"column": "label"}
    )
    assert (evaluated.metrics["accuracy_score"], evaluated.metrics["example_count"]) == (1, 2)
    with pytest.raises(MlflowException, match="no column `labels`; answers have label, name, probability_0"):
        mlflow.pyfunc.load_model(uri, model_config={"column": "labels"})


def test_what_an_earlier_version_sent_becomes_a_model_that_mlflow_loads(store: Store) -> None:
    client, header = client_of(store.output), json.loads(store.spool.read_text("utf-8").splitlines()[0])
    experiment = client.get_experiment_by_name("실험").experiment_id
    tags = {"kobert_tune.sweep_id": header["sweep_id"], "kobert_tune.trial": "0"}
    old = client.create_logged_model(experiment, name="first", tags=tags)
    client.log_model_artifacts(old.model_id, str(store.models["trained"]))
    client.finalize_logged_model(old.model_id, "READY")
    store.register("trained")
    (model,) = client.search_logged_models([experiment])
    assert model.model_id == old.model_id == store.registry.versions()[0].model_id
    assert "MLmodel" in {file.path for file in client.list_logged_model_artifacts(model.model_id)}


def test_what_cannot_be_compared_is_told(store: Store) -> None:
    with pytest.raises(InputError, match="nothing is registered under this name; register one with"):
        store.promote()
    store.register("trained")
    store.promote()
    with pytest.raises(InputError, match="no version 7 is registered"):
        store.promote(7)
    store.register("numbers", task="regression")
    for force in (False, True):
        with pytest.raises(InputError, match=r"a model of the task `regression`, while .* version 1 is of `classif"):
            store.promote(force=force)
    store.register("random")
    with pytest.raises(InputError, match="nothing says what to compare on; give --data FILE"):
        store.promote(data=False)
    assert store.champion() == 1


def test_a_version_of_somebody_else_is_replaced_by_force_alone(store: Store, tmp_path: Path) -> None:
    client = client_of(store.output)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "MLmodel").write_text("flavors: {}\n")
    client.create_registered_model(NAME)
    client.create_model_version(NAME, (tmp_path / "theirs").as_uri())
    client.set_registered_model_alias(NAME, "champion", "1")
    assert store.register("trained") == 2
    with pytest.raises(InputError, match=r"version 1: is no model of kobert-tune; --force takes its place"):
        store.promote()
    assert store.promote(force=True)[0] and store.champion() == 2


def test_an_alias_that_somebody_moved_meanwhile_is_not_taken_from_them(store: Store) -> None:
    store.register("random")
    store.promote()
    before = store.registry.holder_of("champion")
    store.register("trained")
    client_of(store.output).set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(InputError, match=r"`champion` went to version 2 meanwhile; compare again"):
        store.registry.give("champion", 1, instead_of=before)
    with pytest.raises(InputError, match=r"`champion` went to version 2 meanwhile"):
        store.registry.give("champion", 1, instead_of=None)
    assert store.champion() == 2


@pytest.mark.parametrize("alias", ["latest", "v1", "a b", "", "챔피언"])
def test_an_alias_that_mlflow_does_not_take_is_refused_before_anything_is_compared(alias: str) -> None:
    with pytest.raises(InputError, match="cannot be an alias"):
        Contest(alias=alias or " ", say=print)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b"])
def test_a_name_that_mlflow_does_not_take_is_refused(name: str, output: Path) -> None:
    with pytest.raises(InputError, match="cannot be the name of a registered model"):
        Registry(name, uri=default_tracking_uri(output))


def test_a_store_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MLflow does not answer here"):
        Registry(NAME, uri=f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(InputError, match="no MLflow store here yet"):
        Registry(NAME, uri=default_tracking_uri(tmp_path))
