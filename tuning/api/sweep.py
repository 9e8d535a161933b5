"""A sweep from Python: what it has come to, also while it runs."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kobert_core.errors import InputError
from tuning.api.exit_codes import EXIT_INTERRUPTED
from tuning.api.html import sweep_html
from tuning.api.process import Heard, hear, interrupt, is_driven, last_output
from tuning.api.trial import Trial
from tuning.display.time_left import TimeLeft
from tuning.display.trials import how_far, time_left_as_text
from tuning.display.words import span
from tuning.study import StudyConfig
from tuning.sweep_dir.confirm_runs import ConfirmRuns
from tuning.sweep_dir.home import copy_here
from tuning.sweep_dir.layout import REPORT, REVIEW, SPOOL, WINNER, confirm_folder
from tuning.sweep_dir.lock import goes_on
from tuning.sweep_dir.reviews import read_review
from tuning.sweep_dir.saved_study import load_sweep_study
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, read_winner, standing
from tuning.tracking import Callback, Listener, OnReport, read_reports

if TYPE_CHECKING:
    import pandas as pd

    from tuning.sweep.verdict import Verdict

State = Literal["starting", "running", "finished", "interrupted", "cut off", "failed"]
SECONDS_BETWEEN_LOOKS = 0.3
REPORT_HEIGHT = 720


class Sweep:
    """A sweep's folder: of one that runs, was stopped, or has ended; started from Python or from the command line.

    Every property reads the folder anew: of a sweep that runs, it has the state so far.
    """

    def __init__(
        self,
        folder: Path,
        config: StudyConfig,
        *,
        process: subprocess.Popen[bytes] | None = None,
        names: dict[str, str] | None = None,
    ) -> None:
        """Use `Sweep.open`, or `Study.run`.

        Args:
            folder: Of the sweep.
            config: Its study.
            process: Its driver, where that was started here.
            names: What the files of its data are called where frames were given.
        """
        self.folder, self.config = folder, config
        self._process, self._names = process, names or {}
        self._listener: Listener | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Sweep:
        """The sweep of a folder, or of an address in an object store: then as it is there now.

        Raises:
            InputError: this is none, its study was altered, or the store cannot be used.
        """
        path = copy_here(str(folder)) if "://" in str(folder) else Path(folder).resolve()
        return cls(path, load_sweep_study(path))

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.folder.name

    @property
    def state(self) -> State:
        """`starting` until its first trial begins, then `running`; `finished` with a winner; `interrupted` when it was
        stopped, or its budget was spent, before that; `cut off` when it was killed; `failed` when no trial came to a
        model. `Study.run` goes on with one that is interrupted or cut off."""
        return self._state(self._table())

    def _state(self, table: TrialTable) -> State:
        if self.is_running:
            return "running" if len(table) else "starting"
        if self._result(table) is not None:
            return "finished"
        if goes_on(self.folder):
            return "cut off"
        if table.trials_left(self.config) > 0 or table.winner() is not None:
            return "interrupted" if len(table) else "failed"
        return "failed"

    @property
    def is_running(self) -> bool:
        """Whether a process runs it now."""
        if self._process is not None and self._process.poll() is None:
            return True
        return is_driven(self.folder)

    def wait(self, timeout: float | None = None) -> Sweep:
        """Wait until it has ended, or for so many seconds.

        Raises:
            InputError: something that a user gave cannot be used.
            RuntimeError: its process has died.
            TimeoutError: it still runs.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.is_running:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"the sweep {self.name} still runs after {timeout:g} s")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return self._ended()

    def stop(self) -> Sweep:
        """Stop it as Ctrl-C does, and wait until it has: its trials are interrupted at their next step, and go on when
        it does.

        Raises:
            InputError: it runs on another machine.
        """
        if self.is_running:
            while self._process is not None and self._process.poll() is None and not hear(self.folder).pid:
                time.sleep(SECONDS_BETWEEN_LOOKS)  # it could not hear yet
            interrupt(self.folder)
        while self.is_running:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self._close_listener()
        return self

    def __await__(self) -> Generator[Any, None, Sweep]:
        return self._wait_as_others_work().__await__()

    async def _wait_as_others_work(self) -> Sweep:
        while self.is_running:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        return self._ended()

    def _ended(self) -> Sweep:
        self._close_listener()
        heard = hear(self.folder)
        if self._process is None or heard.result is not None:
            return self
        code = self._process.wait()
        if heard.refused is not None:
            raise InputError(self._with_names(heard.refused))
        if code not in (EXIT_INTERRUPTED, -signal.SIGINT):
            said = heard.said[-1] if heard.said else "it has said nothing"
            raise RuntimeError(f"the sweep's process has died ({said})\n{last_output(self.folder)}")
        return self

    def _with_names(self, text: str) -> str:
        """A line about a file that was written for a frame, as one about the frame."""
        for path, name in self._names.items():
            text = named_frame(text, path, name)
        return text

    def _listen(self, callbacks: Sequence[Callback | OnReport]) -> None:
        """Let callbacks hear of it, from now on."""
        if callbacks:
            self._listener = Listener(self.folder / SPOOL, callbacks, say=print)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _table(self) -> TrialTable:
        return TrialTable.of(self.folder, self.config)

    def _result(self, table: TrialTable) -> dict[str, Any] | None:
        """`winner.json`, unless trials have begun, ended or gone on since."""
        if not (self.folder / WINNER).is_file():
            return None
        result: dict[str, Any] = dict(read_winner(self.folder))
        return result if table.is_of(result) else None

    def _winner(self, table: TrialTable) -> TrialRecord | None:
        result = self._result(table)
        return table[result["winner"]["trial"]] if result else table.winner()

    @property
    def frame(self) -> pd.DataFrame:
        """A row a trial: state, value, parameters, and the metrics of its best evaluation."""
        from tuning.api.tables import trials_frame

        table = self._table()
        winner = self._winner(table)
        return trials_frame(table, winner.trial if winner else None)

    @property
    def curves(self) -> pd.DataFrame:
        """A row for each metric at each evaluation: trial, progress in percent, step, metric, value."""
        from tuning.api.tables import curves_frame, objective_frame

        if (self.folder / SPOOL).is_file():
            return curves_frame(read_reports(self.folder / SPOOL))
        return objective_frame(self._table(), self.config.objective)

    @property
    def confirmations(self) -> pd.DataFrame:
        """A row for each run with another seed; none where the study has no `confirm`, or it is not there yet."""
        from tuning.api.tables import confirmations_frame
        from tuning.sweep_dir.confirm_runs import ConfirmRuns

        return confirmations_frame(ConfirmRuns(self.folder))

    def predictions(self, split: str = "dev") -> pd.DataFrame:
        """What was answered to each row or question, as the sweep has kept it: what was `expected` and `predicted`, the
        `confidence`, and the `score`.

        Args:
            split: `holdout`, of the runs that the verdict rests on, with their `trial` and `seed`; or `dev`, of the
                winner of a sweep without `confirm`.

        Raises:
            InputError: the sweep has kept none of these.
        """
        import pandas as pd

        from tuning.sweep_dir.confirm_runs import ConfirmRuns

        if split == "holdout":
            runs = [run for run in ConfirmRuns(self.folder) if run.is_judged]
            kept = [run for run in runs if (confirm_folder(self.folder, run.number) / REVIEW).is_file()]
            parts = [
                pd.DataFrame(read_review(confirm_folder(self.folder, run.number) / REVIEW)).assign(
                    trial=run.trial, seed=run.seed
                )
                for run in kept
            ]
            if parts:
                frame = pd.concat(parts, ignore_index=True)
                return frame[["trial", "seed", *(name for name in frame if name not in ("trial", "seed"))]]
        elif split == "dev" and (self.folder / REVIEW).is_file():
            return pd.DataFrame(read_review(self.folder / REVIEW))
        other = "holdout" if (ConfirmRuns(self.folder).folder).is_dir() else "dev"
        fix = f"its predictions are those of {other!r}" if split != other else "they are there when it has ended"
        if split == "test":
            fix = "ask the model: sweep.best.load().predict(study.test)"
        raise InputError(f"the sweep has kept no predictions of {split!r}", where=self.folder, fix=fix)

    @property
    def verdict(self) -> Verdict | None:
        """What runs with other seeds say of the winner: a sentence, and the numbers behind it. None without `confirm`,
        or before it has ended."""
        from tuning.sweep.verdict import Verdict

        result = self._result(self._table())
        said = result.get("verdict") if result else None
        return Verdict.from_json(said) if said else None

    @property
    def test(self) -> pd.DataFrame:
        """A row each for the `winner`, for baselines such as `trial_0`, and for runs with other seeds: the metrics on
        the test file. Empty before it was read."""
        import pandas as pd

        result = self._result(self._table())
        return pd.DataFrame.from_dict(result["test"] if result else {}, orient="index", dtype=float)

    def report(self) -> Report:
        """Write the report, one page of HTML; a notebook shows it, elsewhere it is a path.

        Raises:
            InputError: no trial has begun.
        """
        from tuning.report import write_report

        return Report(write_report(self.folder, self.folder / REPORT))

    @property
    def best(self) -> Trial:
        """The winner; of a sweep that has none yet, the best trial so far.

        Raises:
            InputError: no trial has come to a model.
        """
        winner = self._winner(self._table())
        if winner is None:
            raise InputError("no trial has come to a model", where=self.folder, fix=f"its state is {self.state!r}")
        return Trial(self.folder, winner)

    def trial(self, number: int) -> Trial:
        """A trial by its number, from 0.

        Raises:
            InputError: there is none.
        """
        return Trial(self.folder, self._table()[number])

    @property
    def trials(self) -> list[Trial]:
        """All trials that have begun, by number."""
        return [Trial(self.folder, record) for record in self._table()]

    def headline(self) -> str:
        """How far it is, in a line."""
        return Look(self).headline

    def __str__(self) -> str:
        return "\n".join(Look(self).lines())

    def __repr__(self) -> str:
        return f"<sweep {self.headline()}>"

    def _repr_html_(self) -> str:
        return sweep_html(Look(self))


class Look:
    """A sweep at one moment, for whoever shows it."""

    def __init__(self, sweep: Sweep) -> None:
        self.name, self.table = sweep.name, sweep._table()
        self.state, self.winner = sweep._state(self.table), sweep._winner(self.table)
        self.heard: Heard = hear(sweep.folder)
        self._result, self._config = sweep._result(self.table), sweep.config
        self._confirmations = list(ConfirmRuns(sweep.folder))

    @cached_property
    def headline(self) -> str:
        """How far the sweep is, in a line."""
        if self.state == "starting":
            return f"{self.name}: {self.heard.work or (self.heard.said or ['starting'])[-1]}"
        ended = sum(record.has_ended for record in self.table)
        trials = ended + max(0, self.table.trials_left(self._config))
        line = f"{self.name}: {self.state}, {how_far(self.table, trials)}"
        if self.state != "running":
            return line
        if ended == trials and self._config.confirm is not None:
            again = [run.state == TrialState.COMPLETE for run in self._confirmations]
            line += f", confirming: {sum(again)} runs with other seeds" if again else ""
        began = min((record.started for record in self.table if record.started), default=time.time())
        running = self.table.states().get(TrialState.RUNNING, 1)
        groups = max(1, self.heard.groups or 1, running)  # more may have come since
        left = TimeLeft(self.table, trials=trials, groups=groups).seconds()
        return f"{line}, {span(time.time() - began)}{time_left_as_text(left, None)}"

    @property
    def best(self) -> str | None:
        """The winner, or the best trial so far, in a line."""
        if self.winner is None or self.winner.value is None:
            return None
        which = "winner" if self._result else "best so far"
        return f"{which}: {standing(self.winner)}, {self._config.objective.metric} {self.winner.value:.4f}"

    @property
    def verdict(self) -> str | None:
        """What runs with other seeds say of it."""
        said = self._result.get("verdict") if self._result else None
        return f"verdict: {said['sentence']}" if said else None

    @property
    def notes(self) -> list[str]:
        """What else is to be known of the winner, such as that it is no better than chance."""
        return [f"note: {note}" for note in self._result.get("notes", ())] if self._result else []

    def lines(self) -> list[str]:
        """All of it."""
        return [line for line in (self.headline, self.best, self.verdict, *self.notes) if line]


class Report:
    """A page of HTML; where a notebook can show it, it does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<report {self.path}>"

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="{REPORT_HEIGHT}" style="border: 0"></iframe>'


def named_frame(text: str, path: str, name: str) -> str:
    """A line about the file of a frame as one about the frame, whose rows are counted from 1."""
    if path not in text:
        return text
    return re.sub(r"\bline (?=\d)", "row ", text.replace(path, f"the frame `{name}`"))
