"""A registered model in MLflow: its versions, and the aliases that say which of them are in use."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kobert_core.errors import InputError
from tuning.tracking.accepted import accepted_text
from tuning.tracking.mlflow_store import store_of
from tuning.tracking.spool import header_of, now_ms
from tuning.tracking.ui import asking, check_store_file, reach
from tuning.tracking.uris import is_server

LONGEST_TEXT = 5000
"""MLflow's limit of a version's description, and of its tags, in characters."""
TASK_TAG = "task"
_MODELS = "models:/"


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """A version of a registered model."""

    number: int
    model_id: str | None
    """Of the LoggedModel that it is; None where it was registered in another way."""
    task: str | None
    """What kobert-tune trained it for; None where it is somebody else's model."""
    aliases: tuple[str, ...]


class Registry:
    """The versions of one registered model in an MLflow store.

    Args:
        name: Of the registered model; it need not be there.
        uri: The store.

    Raises:
        InputError: the store does not answer, or a model cannot have this name.
    """

    def __init__(self, name: str, *, uri: str) -> None:
        if not name.strip() or re.search("[/:]", name):
            raise InputError(f"`{name}` cannot be the name of a registered model", fix="leave out slashes and colons")
        if not is_server(uri):
            check_store_file(uri)
        self.name, self._uri = name, uri
        self._client = reach(uri)

    def versions(self) -> list[RegisteredVersion]:
        """All versions, the newest first; none where nothing has this name."""
        from mlflow.exceptions import MlflowException

        with asking(self._uri):
            try:
                aliases = self._client.get_registered_model(self.name).aliases
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return []
                raise
            quote = '"' if "'" in self.name else "'"
            found = self._client.search_model_versions(f"name = {quote}{self.name}{quote}")
        versions = [
            RegisteredVersion(
                number=int(each.version),
                model_id=_model_id(each.model_id, each.source),
                task=each.tags.get(TASK_TAG),
                aliases=tuple(alias for alias, version in aliases.items() if int(version) == int(each.version)),
            )
            for each in found
        ]
        return sorted(versions, key=lambda version: -version.number)

    def holder_of(self, alias: str) -> RegisteredVersion | None:
        """The version that has an alias, if one has it."""
        return next((version for version in self.versions() if alias in version.aliases), None)

    def register(self, model_id: str, *, card: str, tags: Mapping[str, str]) -> int:
        """Make a version of a LoggedModel, with its card as the description; the number of it, or of the one that it is
        already."""
        import mlflow

        known = next((version.number for version in self.versions() if version.model_id == model_id), None)
        with asking(self._uri):
            if known is None:
                with _store_of_process(self._uri), contextlib.redirect_stderr(io.StringIO()):  # it prints what it does
                    known = int(mlflow.register_model(f"{_MODELS}{model_id}", self.name).version)
            self._client.update_model_version(self.name, str(known), accepted_text(_body(card), LONGEST_TEXT))
        self.tag(known, tags)
        return known

    def tag(self, version: int, tags: Mapping[str, str]) -> None:
        """Put tags on a version."""
        with asking(self._uri):
            for key, value in tags.items():
                text = accepted_text(value, LONGEST_TEXT)
                self._client.set_model_version_tag(self.name, str(version), key, text)

    def give(self, alias: str, version: int, *, instead_of: RegisteredVersion | None) -> None:
        """Give an alias to a version.

        Raises:
            InputError: another one has it by now.
        """
        before, now = instead_of and instead_of.number, (holder := self.holder_of(alias)) and holder.number
        if now != before:
            what = f"`{alias}` went to version {now} meanwhile" if now else f"`{alias}` was taken away meanwhile"
            raise InputError(what, where=self.name, fix="compare again")
        with asking(self._uri):
            self._client.set_registered_model_alias(self.name, alias, str(version))

    def download(self, version: int, folder: Path) -> Path:
        """A copy of the files of a version, in a folder that is there."""
        from mlflow.artifacts import download_artifacts

        with asking(self._uri), _store_of_process(self._uri):
            return Path(download_artifacts(f"{_MODELS}{self.name}/{version}", dst_path=str(folder)))

    def put(self, version: RegisteredVersion, file: Path) -> None:
        """Write a file into the folder of a version; one that is no LoggedModel stays as it is."""
        if version.model_id is not None:
            with asking(self._uri):
                self._client.log_model_artifact(version.model_id, str(file))


def logged_model(
    spool: Path,
    *,
    uri: str,
    model_dir: Path,
    trial: str,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> str:
    """The id of the LoggedModel of a sweep's trial, as `Tracker.log_winner` makes it; it is made, or completed, where
    MLflow does not have it whole.

    Raises:
        InputError: this is no spool, or MLflow does not take the model.
    """
    header = header_of(spool)
    if header is None:
        raise InputError("no tracking spool here", where=spool)
    store = store_of(header, uri=uri, folder=spool.parent)
    with asking(uri):
        store.connect()
        model = store.log_winner(
            trial=trial,
            model_dir=str(model_dir.absolute()),
            name=header["sweep"],
            params=params,
            metrics=metrics,
            tags=tags,
            time=now_ms(),
        )
    return str(model.model_id)


def check_alias(alias: str) -> None:
    """Refuse what no alias can be, before anything is compared.

    Raises:
        InputError: MLflow takes no such alias.
    """
    if not re.fullmatch(r"[\w-]+", alias, re.ASCII) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        what = f"`{alias}` cannot be an alias: MLflow takes letters, digits, `_` and `-`, but neither `latest` nor `v1`"
        raise InputError(what, where="--alias", fix="take a word such as champion")


def _model_id(given: str | None, source: str | None) -> str | None:
    """The LoggedModel of a version, which a SQL store has in its source alone."""
    found = re.fullmatch(re.escape(_MODELS) + r"/*(m-\w+)", source or "")
    return given or (found[1] if found else None)


def _body(card: str) -> str:
    """A model card without what it says to the hub's programs."""
    return re.sub(r"\A---\n.*?\n---\s*", "", card, flags=re.DOTALL)


@contextlib.contextmanager
def _store_of_process(uri: str) -> Iterator[None]:
    """What MLflow looks up by itself, it looks up in the store of the process."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, uri))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)
