"""A study from Python: from a study file, or from DataFrames and the keys that a study file has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from tuning.api.frames import is_frame, store_frame
from tuning.api.html import study_html
from tuning.api.process import is_driven, start_driver
from tuning.api.sweep import Sweep, named_frame
from tuning.storage.store import is_address
from tuning.study import load_study, study_of
from tuning.sweep_dir.layout import FRAMES, STUDY, SWEEPS, WINNER
from tuning.sweep_dir.names import sweep_folder
from tuning.sweep_dir.opening import refuse_other_study
from tuning.sweep_dir.provenance import refuse_other_provenance
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.trial_table import TrialTable, read_winner
from tuning.tracking import Callback, OnReport

if TYPE_CHECKING:
    import pandas as pd

    from kobert_core.tasks.base import Task

T = TypeVar("T")
SPLITS = ("train", "dev", "test")


class Study:
    """What to train, what to search, how, and for how long.

    >>> study = Study.load("search_spaces/quickstart.yaml", {"budget.trials": 2})
    >>> study.config.budget.trials
    2
    >>> study.data.columns.tolist()
    ['id', 'text', 'label']
    """

    def __init__(
        self,
        *,
        task: str,
        data: Any,
        dev: Any = None,
        test: Any = None,
        backbone: str | Path | None = None,
        parameters: Mapping[str, Mapping[str, object]] | None = None,
        name: str = "study",
        storage: str | Path | None = None,
        **sections: Any,
    ) -> None:
        """A study with the keys of a study file.

        A DataFrame is written once into the folder of all sweeps, by the hash of its content. So trials, a resume and
        the sweep's own `study.yaml` read it like any other file.

        Args:
            task: Such as `classification` or `qa`.
            data: The training data: a DataFrame, a data set of HuggingFace's `datasets`, a file, or several; or a
                mapping of the keys in a study file's `data` section, whose `train`, `dev` and `test` may be these.
            dev, test: The same of the other splits; without `dev` a part of the training data is set aside.
            backbone: Folder or hub name of an encoder: `model.backbone`.
            parameters: What is searched: `{"optim.backbone_lr": {"distribution": "log_uniform", …}}`.
            name: Of the study, and of its sweep, unless `run` gives another.
            storage: The folder of all sweeps; `sweeps` here, if not given. Or an address in an object store.
            sections: Other keys of a study file: `model`, `optim`, `train`, `objective`, `search`, `scheduler`,
                `confirm`, `resources`, `budget`, `tracking`, …

        Raises:
            InputError: a key or value is wrong, or a frame cannot be used.
        """
        section = dict(data) if isinstance(data, Mapping) else {"train": data}
        section |= {split: given for split, given in (("dev", dev), ("test", test)) if given is not None}
        frames = {split: section[split] for split in SPLITS if split in section}
        files, self._names = _stored(frames, _frames_folder(storage))
        model = dict(sections.pop("model", None) or {})
        if backbone is not None:
            model["backbone"] = os.fspath(backbone)
        given: dict[str, Any] = {
            "schema_version": 1,
            "name": name,
            "task": task,
            "data": section | files,
            "model": model,
            "parameters": dict(parameters or {}),
            **({"storage": os.fspath(storage)} if storage is not None else {}),
            **sections,
        }
        self.config = self._naming_frames(lambda: study_of(given))

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Study:
        """The study of a study file.

        Args:
            path: The file. Relative paths in it start from its folder.
            overrides: Values by dotted key, as `--set` takes them on the command line: `{"train.epochs": 2}`. Relative
                paths in them start here. `data.train`, `data.dev` and `data.test` may be DataFrames.

        Raises:
            InputError: it is no study; one line names the place, the key and what would be right.
        """
        study = cls.__new__(cls)
        given = dict(overrides or {})
        frames = {split: given[f"data.{split}"] for split in SPLITS if f"data.{split}" in given}
        files, study._names = _stored(frames, _frames_folder(given.get("storage")))
        given |= {f"data.{split}": file for split, file in files.items()}
        texts = [f"{key}={_as_yaml(key, value)}" for key, value in given.items()]
        study.config = study._naming_frames(lambda: load_study(path, texts))
        return study

    @property
    def name(self) -> str:
        """Of the study."""
        return self.config.name

    @cached_property
    def data(self) -> pd.DataFrame:
        """The rows that trials are trained on, as the study reads them: `text`, `label` and so on. Rows that were set
        aside are not there."""
        return self._frame("train")

    @cached_property
    def dev(self) -> pd.DataFrame:
        """The rows that trials are compared on; in a column `split`, which of them are held out for the verdict."""
        import pandas as pd

        dev = self._frame("dev")
        if not self.config.data.holdout_fraction:
            return dev
        parts = [dev.assign(split="dev"), self._frame("holdout").assign(split="holdout")]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def test(self) -> pd.DataFrame:
        """The rows of the test file.

        Raises:
            InputError: the study has none.
        """
        import pandas as pd

        test = self.config.data.test
        if test is None:
            raise InputError("this study has no test file", where=self.name, fix="set `data.test`")
        return pd.DataFrame(self._naming_frames(lambda: self._task.labelled_rows(test)))

    def _frame(self, split: str) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self._naming_frames(lambda: self._task.split_rows(split)))

    @cached_property
    def _task(self) -> Task:
        from kobert_core.tasks import task_class

        self.config.check_files()
        return task_class(self.config.task)(self.config.train_config(self.config.example_values()))

    def start(
        self,
        name: str | None = None,
        *,
        output: str | Path | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback | OnReport] = (),
    ) -> Sweep:
        """Start the sweep in a process of its own, and return at once.

        Of a sweep with this name that was interrupted, killed, or has fewer trials than the study now asks for, the
        rest is run; one that runs is the sweep that is returned, and so is one that has ended.

        Args:
            name: Of the sweep, and of its folder; the study's, if not given.
            output: Folder of all sweeps, instead of `storage` or `sweeps`.
            address: A Ray cluster to join, `auto` or `HOST:6379`; by default one is started here.
            callbacks: Functions `(trial, step, metrics)`, or `Callback`s, which are called here while it runs.

        Raises:
            InputError: another study has a sweep with this name.
        """
        folder = sweep_folder(self.config, name, Path(output) if output is not None else None, where="name")
        if (folder / STUDY).is_file():
            refuse_other_study(load_sweep_study(folder), self.config, folder)
        sweep, runs = Sweep(folder, self.config, names=self._names), is_driven(folder)
        if not runs and self._is_done(folder):
            return sweep
        sweep._listen(callbacks)
        if not runs:
            sweep._process = start_driver(self.config, folder, address=address)
        return sweep

    def run(
        self,
        name: str | None = None,
        *,
        output: str | Path | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback | OnReport] = (),
        show: bool = True,
    ) -> Sweep:
        """Run the sweep to its end: `start`, and show it meanwhile.

        A notebook has one display that changes, a terminal the table that the command line shows, and anything else a
        line on stderr now and then. Ctrl-C, or a notebook's stop button, stops it cleanly; the same call goes on.

        Args:
            name, output, address, callbacks: As `start` takes them.
            show: Whether to show anything.

        Raises:
            InputError: something that a user gave cannot be used.
            KeyboardInterrupt: it was stopped.
            RuntimeError: its process has died, again and again.
        """
        from tuning.api.showing import follow

        sweep = self.start(name, output=output, address=address, callbacks=callbacks)
        return follow(sweep, show=show)

    def _is_done(self, folder: Path) -> bool:
        """Whether a sweep with all that this study asks for is there; its data and models must be the same."""
        if not (folder / WINNER).is_file():
            return False
        result, table = read_winner(folder), TrialTable.of(folder, self.config)
        if "states" not in result or not table.is_of(dict(result)):
            return False
        if (self.config.confirm is None) != (result.get("verdict") is None):
            return False
        left = table.trials_left(self.config)
        if left > 0 and not table.is_out_of_patience(self.config.budget.patience):
            return False
        refuse_other_provenance(folder, self.config)
        return True

    def _naming_frames(self, function: Callable[[], T]) -> T:
        """Call something whose errors may be about a file that was written for a frame."""
        try:
            return function()
        except InputError as error:
            said = str(error)
            for path, name in self._names.items():
                said = named_frame(said, path, name)
            if said == str(error):
                raise
            raise InputError(said) from error

    def __repr__(self) -> str:
        config = self.config
        searched = ", ".join(config.space) or "nothing"
        return f"<study {config.name}: {config.task}, {config.budget.trials} trials, searches {searched}>"

    def _repr_html_(self) -> str:
        sources = {split: getattr(self.config.data, split) for split in SPLITS}
        files = {
            split: self._names.get(str(source), str(source)) for split, source in sources.items() if source is not None
        }
        return study_html(self.config, files)


def _stored(given: Mapping[str, Any], sweeps: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The sources of splits, where frames are files; and what the frames are called, by the path of the file."""
    files, names = dict[str, Any](), dict[str, str]()
    for split, value in given.items():
        if is_frame(value):
            name = "data" if split == "train" else split
            path = str(store_frame(value, (sweeps / FRAMES).absolute(), name=name))
            files[split] = path
            names.setdefault(path, name)
        elif value is not None:
            try:
                files[split] = Source.of(value).as_json()
            except ValueError as error:
                fix = "give a DataFrame, or a file"
                raise InputError(str(error), where=f"data.{split}", fix=fix) from error
    return files, names


def _as_yaml(key: str, value: object) -> str:
    try:
        return json.dumps(os.fspath(value) if isinstance(value, Path) else value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"no study file could have this value ({error})", where=key) from error


def _frames_folder(storage: Any) -> Path:
    """The folder of all sweeps on this machine, in which frames are written."""
    return SWEEPS if not storage or is_address(str(storage)) else Path(storage)
