"""Commands that show sweeps, their trials, and the logs of trials."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kobert_core.errors import InputError
from tuning.cli.options import SWEEPS, AsJson, Place, SweepDir, complete_sweeps, complete_trials, print_json
from tuning.cli.terminal import echo
from tuning.storage.store import is_address

if TYPE_CHECKING:
    from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

commands = typer.Typer()
POLL_SECONDS, POLL_SECONDS_OF_STORE = 0.5, 5.0


@commands.command("list")
def list_(
    sweep_dir: Annotated[
        Place | None,
        typer.Argument(
            metavar="[SWEEP_DIR]",
            help="Show the trials of one sweep, by its folder or its address.",
            autocompletion=complete_sweeps,
            parser=Place,
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder that holds all sweeps, or its address.")
    ] = str(SWEEPS),
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Order of the trials of one sweep: value (the best first), trial, state, seconds (the longest "
            "first), a parameter such as optim.backbone_lr, or a metric.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sweeps with their trials by state; or the trials of one sweep."""
    from tuning.sweep_dir.layout import LEDGER
    from tuning.sweep_dir.trial_table import as_row

    if sweep_dir is not None:
        table = _table_of(sweep_dir.sweep())
        records = _sorted(table, sort or "trial")
        if as_json:
            print_json(_summary(table) | {"trials": [as_row(record) for record in records]})
        else:
            _show(table, records)
            _show_warm_start(table.folder)
        return
    if sort is not None:
        raise InputError("`--sort` sorts the trials of one sweep", where="--sort", fix="give its folder, SWEEP_DIR")
    if is_address(output):
        from tuning.sweep_dir.home import copy_here, sweeps_at

        tables = [_table_of(copy_here(address)) for address in sweeps_at(output)]
    else:
        tables = [_table_of(path.parent) for path in sorted(Path(output).glob(f"*/{LEDGER}"))]
    if as_json:
        print_json({"sweeps": [_summary(table) for table in tables]})
        return
    if not tables:
        echo(f"no sweeps in {output}")
    for table in tables:
        echo(_line(table))


def _table_of(sweep_dir: Path) -> TrialTable:
    from tuning.sweep_dir.saved_study import load_sweep_study
    from tuning.sweep_dir.trial_table import TrialTable

    return TrialTable.of(sweep_dir, load_sweep_study(sweep_dir))


def _summary(table: TrialTable) -> dict[str, object]:
    """A sweep, for `--json`."""
    from tuning.sweep.comparison import trial_as_json
    from tuning.sweep_dir.home import place_of

    winner = table.winner()
    return {
        "sweep": place_of(table.folder),
        "objective": table.objective.model_dump(),
        **({"further": [each.name for each in table.further]} if table.further else {}),
        "states": table.states(),
        "cut_off": _is_cut_off(table),
        "best": trial_as_json(winner) if winner else None,
    }


def _line(table: TrialTable) -> str:
    """A sweep in one line."""
    from tuning.sweep_dir.home import place_of
    from tuning.sweep_dir.trial_table import standing

    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(table.states().items()))
    best, cut = table.winner(), "  (cut off; the same command goes on)" if _is_cut_off(table) else ""
    value = f"best {table.objective.metric} {best.value:.4f} ({standing(best)})" if best else "no winner"
    value = table.why_no_winner() or value
    return f"{place_of(table.folder)}  {states}  {value}{cut}"


def _show(table: TrialTable, records: list[TrialRecord]) -> None:
    from tuning.display.trials import trial_table
    from tuning.sweep_dir.layout import SPOOL
    from tuning.tracking import count_dead_letters, dead_letters_path

    Console().print(trial_table(table, records))
    if _is_cut_off(table):
        echo("this sweep was cut off: run the command that began it again, and it goes on")
    if refused := count_dead_letters(table.folder / SPOOL):
        echo(f"MLflow refused {refused:,} records for good: {dead_letters_path(table.folder / SPOOL)}")


def _show_warm_start(sweep_dir: Path) -> None:
    from tuning.sweep_dir.saved_study import load_sweep_study

    study = load_sweep_study(sweep_dir)
    if study.search.warm_start:
        from tuning.search.warm_start import begun_with, in_words

        for line in in_words(begun_with(sweep_dir, study)):
            echo(line)


def _sorted(table: TrialTable, key: str) -> list[TrialRecord]:
    """The trials in the order of a column, named in full or as the table shows it; those that have nothing there come
    last, and equal ones by number.

    Raises:
        InputError: there is no such column.
    """
    from search_spaces.validation import suggest_known

    records, metric = list(table), table.objective.metric
    if key in ("value", metric, metric.removeprefix("eval/")):
        ranked = table.best(len(records))
        return ranked + [record for record in records if record not in ranked]
    rows = [
        {"trial": record.trial, "state": record.state, "seconds": -record.seconds} | record.metrics | record.values
        for record in records
    ]
    full = {name.split(".")[-1]: name for record in records for name in record.values}
    full |= {name: name for row in rows for name in row}
    if records and key not in full:
        fix = suggest_known(key, ["value", *full])
        raise InputError(f"the trials have no `{key}` to sort by", where="--sort", fix=fix)
    places = sorted(range(len(records)), key=lambda place: _comparable(rows[place].get(full[key])))
    return [records[place] for place in places]


def _comparable(cell: object) -> tuple[int, float | str]:
    """A sort key: numbers first, then texts and other values, then missing ones."""
    if isinstance(cell, int | float):
        return (0, cell)
    return (2, 0) if cell is None else (1, str(cell))


def _is_cut_off(table: TrialTable) -> bool:
    """Whether the process of a sweep was killed."""
    from tuning.sweep_dir.lock import is_running
    from tuning.sweep_dir.trial_status import TrialState

    return TrialState.RUNNING in table.states() and not is_running(table.folder)


@commands.command()
def logs(
    sweep_dir: SweepDir,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.", autocompletion=complete_trials)],
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what it prints until it ends, or Ctrl-C.")
    ] = False,
) -> None:
    """What a trial printed; of a sweep in an object store, as far as it was uploaded with a checkpoint."""
    from tuning.sweep_dir.home import bring
    from tuning.sweep_dir.layout import LOG, trial_folder
    from tuning.sweep_dir.lock import is_running
    from tuning.sweep_dir.trial_table import standing

    folder = sweep_dir.sweep()
    record, read = _begun(sweep_dir, trial) if follow else _table_of(folder)[trial], 0
    while True:
        # Whether it goes on is asked before the log is read: what it printed was there before its end.
        goes_on = follow and not record.has_ended and is_running(folder)
        if (log := bring(folder, trial_folder(folder, trial) / LOG)).is_file():
            with open(log, "rb") as file:
                file.seek(read)
                new = file.read()
            if goes_on:  # a line that is being written may break off inside a character
                new = new[: new.rfind(b"\n") + 1]
            read += len(new)
            echo(new.decode(encoding="utf-8", errors="replace"), nl=False)
        if not goes_on:
            break
        _pause(sweep_dir)
        record = _table_of(sweep_dir.sweep())[trial]
        if record.has_ended and sweep_dir.is_address:
            _pause(sweep_dir)  # its worker uploads the last lines after its end
    if record.reason and not log.is_file():
        echo(record.reason)
    if follow:
        echo(standing(record), err=True)


@commands.command()
def report(
    sweep_dir: SweepDir,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Where to write it. Default: SWEEP_DIR/report.html.")
    ] = None,
) -> None:
    """Write a page on a sweep: the winner, the search, what stopping saved, the mistakes worth reading.

    It needs no network and no other file. Of a sweep that runs it has the state so far.
    """
    from kobert_core.io.atomic import check_output
    from tuning.report import write_report
    from tuning.sweep_dir.layout import REPORT

    if output is None and sweep_dir.is_address:
        raise InputError("nothing says where the report goes", where="report", fix="give --output FILE")
    folder = sweep_dir.sweep()
    path = output or folder / REPORT
    check_output(path)
    echo(f"report: {write_report(folder, path)}")
    if show:
        typer.launch(path.resolve().as_uri())


def _pause(sweep_dir: Place) -> None:
    time.sleep(POLL_SECONDS_OF_STORE if sweep_dir.is_address else POLL_SECONDS)


def _begun(sweep_dir: Place, trial: int) -> TrialRecord:
    """Wait for a trial that has not begun yet."""
    from tuning.sweep_dir.lock import is_running
    from tuning.sweep_dir.saved_study import load_sweep_study

    trials = load_sweep_study(sweep_dir.sweep()).budget.trials
    while True:
        folder = sweep_dir.sweep()
        runs, table = is_running(folder), _table_of(folder)
        if trial in table or trial >= trials or not runs:
            return table[trial]
        _pause(sweep_dir)
