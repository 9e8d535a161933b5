"""The command line: parses, calls, prints. Heavy libraries are imported only by the command that needs them."""

from __future__ import annotations

import io
import logging
import shlex
import sys
import tempfile
import time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.onnx.files import MAX_DROP, backend_of
from kobert_core.texts import printable
from tuning.cli.cluster import commands as cluster_commands
from tuning.cli.interpreter import settle_interpreter
from tuning.cli.models import commands as model_commands
from tuning.cli.onnx import commands as onnx_commands
from tuning.cli.onnx import tell_graphs
from tuning.cli.options import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_WON,
    SWEEPS,
    Address,
    AsJson,
    CompareOn,
    Force,
    Fp16,
    Int8,
    MaxDrop,
    ModelDir,
    Name,
    Output,
    Overrides,
    Resume,
    RunBy,
    StudyFile,
    SweepDir,
    SweepsFolder,
    Trials,
    print_json,
    sweep_name,
    with_trials,
)
from tuning.cli.serve import commands as serve_commands
from tuning.cli.sweeps import commands as sweep_commands
from tuning.cli.terminal import PrintableFormatter, echo, span
from tuning.cli.tracking import commands as tracking_commands
from tuning.sweep_dir.layout import CACHE, PROFILES, REPORT

if TYPE_CHECKING:
    from tuning.study import StudyConfig
    from tuning.sweep.dry_run import DryRun
    from tuning.sweep.onnx import OnnxReport, Wanted
    from tuning.sweep.result import SweepResult

app = typer.Typer(
    name="kobert-tune",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Tune Korean BERT encoders on Ray.

    Write a study file, look at it with [bold]train[/] and [bold]sweep --dry-run[/], launch it with [bold]sweep[/],
    watch it here and with [bold]ui[/], and take away the best model: [bold]export[/], [bold]evaluate[/],
    [bold]predict[/].""",
)

app.add_typer(sweep_commands)
app.add_typer(cluster_commands)
app.add_typer(tracking_commands)
app.add_typer(model_commands)
app.add_typer(onnx_commands)
app.add_typer(serve_commands)


def main() -> None:
    """Entry point: bad input is one line and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is written out
            stream.reconfigure(errors="backslashreplace")
    try:
        settle_interpreter()
        app()
    except InputError as error:
        _refuse(str(error))
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:  # a name that is too long, a folder that cannot be written
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}")


def _refuse(line: str) -> NoReturn:
    from tuning.tracking import redact_uri  # an override, or a library's own words, may hold an address

    said = Text.assemble(("error:", "red"), f" {printable(redact_uri(line))}")
    Console(stderr=True).print(said, soft_wrap=True)
    sys.exit(EXIT_BAD_INPUT)


def _show_version(wanted: bool) -> None:
    if wanted:
        echo(f"kobert-tuning {version('kobert-tuning')}")
        raise typer.Exit


@app.callback()
def _global(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more of what happens.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


@app.command()
def train(
    study_file: StudyFile,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="MODEL_DIR", help="Export the best checkpoint to this folder."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time went, and write a trace into sweeps/profiles.")
    ] = False,
) -> None:
    """One training run in this process, without Ray: for a first look and for debugging.

    Searched parameters take the values of the study's first point, or the middle of their range.
    """
    from tuning.cli.progress import beside, watching
    from tuning.study import load_study

    study = load_study(study_file, overrides or ())
    from tuning.sweep.train_local import train_once  # takes long: a mistake in the study is told before

    trace = SWEEPS / PROFILES / f"{study.name}-{time.strftime('%Y%m%d-%H%M%S')}.json" if profile else None

    with watching() as progress:
        say, complain = beside(progress), beside(progress, err=True)

        def warn(text: str) -> None:
            complain(f"warning: {text}")

        cache = SWEEPS / CACHE
        train_once(study, say=say, warn=warn, cache=cache, output=output, trace=trace, progress=progress)


@app.command()
def sweep(
    study_file: StudyFile,
    overrides: Overrides = None,
    trials: Trials = None,
    name: Name = None,
    output: SweepsFolder = None,
    address: Address = None,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, read the data, run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search: train many times on Ray, pick the best, export it.

    Ctrl-C stops cleanly; the same command with --resume goes on.
    """
    console = Console(stderr=as_json, emoji=False)
    if dry_run:
        study, folder = _study_and_folder(study_file, with_trials(overrides, trials), name, output)
        from tuning.cli.progress import watching
        from tuning.sweep.dry_run import look

        with watching() as progress:
            found = look(study, folder, address, progress=progress)
        _show_dry_run(found, console)
        if as_json:
            print_json(found.as_json())
        return
    from tuning.cli.display import Display
    from tuning.cli.supervisor import supervised
    from tuning.cluster.head import starts_here

    display = Display(console)
    with supervised(display.say, own_ray=starts_here(address)) as session:
        study, folder = _study_and_folder(study_file, with_trials(overrides, trials), name, output)
        from tuning.sweep.sweep import run_sweep  # takes long: a mistake in the study is told before

        result = run_sweep(study, folder, address=address, resume=resume, display=display, session=session)
        _summarise(result, console)
        if as_json:
            print_json(result.as_json())
        _exit_of(result)


def _exit_of(result: SweepResult) -> None:
    if result.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.winner is None:
        raise typer.Exit(EXIT_NOTHING_WON)


@app.command()
def distill(
    teacher: Annotated[
        Path,
        typer.Argument(
            metavar="SWEEP_DIR",
            help="The sweep whose confirmed models teach, or else its winner; or an exported model.",
        ),
    ],
    student: Annotated[Path, typer.Option("--student", metavar="STUDY", help="The study file of a smaller model.")],
    unlabelled: Annotated[
        list[str] | None,
        typer.Option("--unlabelled", metavar="FILE", help="More texts, whose labels nobody knows. Repeatable."),
    ] = None,
    overrides: Overrides = None,
    trials: Trials = None,
    name: Name = None,
    output: SweepsFolder = None,
    address: Address = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Teach a smaller model: a sweep of STUDY whose trials learn from the answers of a larger one, beside the labels.

    The teacher answers to the texts of the training split and of --unlabelled; then it is a sweep like any other. At
    its end the students are held against their teacher: score, size, latency.
    """
    console = Console(stderr=as_json, emoji=False)
    from tuning.cli.display import Display
    from tuning.cli.supervisor import supervised
    from tuning.cluster.head import starts_here

    display = Display(console)
    with supervised(display.say, own_ray=starts_here(address)) as session:
        replaced = with_trials(overrides, trials)
        study, folder = _study_and_folder(student, [*replaced, "distill.soft_labels=."], name, output)
        from tuning.cli.distill import show_sizes, teach

        soft_labels, models = teach(
            study, folder, teacher, [Source.of(file) for file in unlabelled or ()], resume=resume, say=display.say
        )
        study, folder = _study_and_folder(student, [*replaced, f"distill.soft_labels={soft_labels}"], name, output)
        from tuning.sweep.sweep import run_sweep

        result = run_sweep(study, folder, address=address, resume=resume, display=display, session=session)
        _summarise(result, console)
        told = result.as_json()
        if result.winner is not None:
            told["students"] = show_sizes(study, folder, models, console)
        if as_json:
            print_json(told)
        _exit_of(result)


def _study_and_folder(
    file: Path, overrides: list[str], name: str | None, output: Path | None
) -> tuple[StudyConfig, Path]:
    """The study of a sweep, and the sweep's folder."""
    from tuning.study import load_study

    study = load_study(file, overrides)
    return study, ((output or study.storage or SWEEPS) / sweep_name(name or study.name)).resolve()


@app.command()
def export(
    sweep_dir: SweepDir,
    output: Annotated[Path | None, typer.Option("--output", metavar="MODEL_DIR", help="Folder to make.")] = None,
    trial: Annotated[int | None, typer.Option(metavar="ID", help="A trial's number, instead of the winner's.")] = None,
    averaged: Annotated[
        bool, typer.Option("--averaged", help="The mean of the weights of the winner's confirmed seeds, a model soup.")
    ] = False,
    tuned_decoding: Annotated[
        bool, typer.Option("--tuned-decoding", help="The winner, its answers read with the settings best on dev.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Add a graph for onnxruntime, as `onnx` does, by the dev split.")
    ] = False,
    int8: Int8 = False,
    fp16: Fp16 = False,
    max_drop: MaxDrop = MAX_DROP,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make it a version of this registered model in MLflow.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="That the version gets, such as champion.")] = None,
    data: CompareOn = None,
    force: Force = False,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Upload it to this repository of the HuggingFace hub.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see a repository that --push makes.")] = False,
    license: Annotated[str | None, typer.Option(metavar="ID", help="For the card on the hub, such as mit.")] = None,
) -> None:
    """Write a trial's best checkpoint as a HuggingFace folder: the winner's, or that of --trial.

    With --register it becomes a version of a registered model in MLflow, unless one has the alias (by default champion)
    and this is not better on the sweep's test file, or on --data: then exit code 1.
    """
    if output is None and register is None and push is None:
        fix = "give --output DIR, --register NAME or --push REPO"
        raise InputError("nothing says where the model goes", where="export", fix=fix)
    if output is None and (onnx or int8 or fp16):
        raise InputError("nothing says where the graphs go", where="export --onnx", fix="give --output DIR")
    variant = "--averaged" if averaged else "--tuned-decoding" if tuned_decoding else None
    others = {"--tuned-decoding": tuned_decoding, "--trial": trial is not None, "--register": register is not None}
    if variant and (other := next((name for name, given in others.items() if given and name != variant), None)):
        raise InputError("this is another model than any trial's", where=f"export {variant}", fix=f"leave out {other}")
    if push is not None:
        from tuning.sweep.push import check_repo

        check_repo(push)
    if output is not None:
        wanted = None
        if onnx or int8 or fp16:
            from tuning.sweep.onnx import Wanted

            wanted = Wanted(int8=int8, fp16=fp16, max_drop=max_drop)
        _export(sweep_dir, output, trial, wanted, variant=variant)
    if push is not None:
        _push(sweep_dir, trial, output, push, variant=variant, public=public, license=license)
    if register is not None:
        from tuning.cli.tracking import promoting, tell
        from tuning.sweep.promotion import register_model

        with promoting(alias, data, force) as contest:
            found = register_model(sweep_dir, register, contest, trial=trial, exported=output)
        tell(found)


def _push(
    sweep_dir: Path,
    trial: int | None,
    exported: Path | None,
    repo: str,
    *,
    variant: str | None,
    public: bool,
    license: str | None,
) -> None:
    from tuning.cli.progress import watching
    from tuning.sweep.push import push_model

    with tempfile.TemporaryDirectory() as folder:
        if exported is None:
            exported = Path(folder) / sweep_dir.resolve().name
            _export(sweep_dir, exported, trial, None, variant=variant)
        with watching() as progress:
            address = push_model(exported, repo, public=public, license=license, progress=progress)
    echo(f"pushed to {address}")


def _export(sweep_dir: Path, output: Path, trial: int | None, wanted: Wanted | None, *, variant: str | None) -> None:
    from tuning.cli.progress import watching
    from tuning.sweep.comparison import Comparison, baselines_of
    from tuning.sweep.export import VARIANTS, export_model
    from tuning.sweep_dir.layout import WINNER
    from tuning.sweep_dir.trial_table import TrialTable, read_winner

    study = _study_of(sweep_dir)
    table = TrialTable(sweep_dir.resolve(), study.objective)
    result = read_winner(sweep_dir) if trial is None or (sweep_dir / WINNER).is_file() else None
    reports: list[OnnxReport] = []
    with watching() as progress:
        progress(f"exporting to {output}", 0)
        about: dict[str, Any] = {}
        if result is not None and trial in (None, result["winner"]["trial"]):
            record, verdict = table[result["winner"]["trial"]], result.get("verdict")
            beside = Comparison(baselines=baselines_of(table, study), notes=tuple(result.get("notes", ())))
            about = {"test": result["test"], "comparison": beside, "verdict": verdict}
        else:
            assert trial is not None
            record = table[trial]

        def add_graphs(folder: Path) -> None:
            from tuning.sweep.onnx import add_onnx_on_dev

            assert wanted is not None
            reports.append(add_onnx_on_dev(folder, sweep_dir.resolve(), study, record, wanted, progress=progress))

        more: dict[str, Any] = {} if wanted is None else {"complete": add_graphs}
        if variant:
            VARIANTS[variant](sweep_dir, study, record, output, **more)
        else:
            export_model(sweep_dir, study, record, output, **about, **more)
    echo(f"exported to {output}")
    for report in reports:
        assert wanted is not None
        tell_graphs(output, report, wanted)


@app.command()
def predict(
    model_dir: ModelDir,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Files of the kind that the model was trained on; - reads standard input."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            metavar="FILE",
            help="The file to write: .jsonl, .tsv, .csv or .parquet; - writes JSON Lines to standard output.",
        ),
    ],
    keep_columns: Annotated[
        bool, typer.Option("--keep-columns", help="Write the other columns of the input too.")
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="A list of the K likeliest labels, not all probabilities.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="P", help="Leave out labels, entities and answers that are less probable than this."
        ),
    ] = None,
    backend: RunBy = "torch",
) -> None:
    """Label a file: one record a row, with its text and the probability of each class, or its entities; or answer its
    questions.

    A file of any length takes the same memory. What is done is kept beside the output: the same command goes on.
    """
    from tuning.cli.predict import STANDARD, Asked, Predicted, predict_file, standard_input
    from tuning.cli.progress import watching

    asked = Asked(keep_columns=keep_columns, top_k=top_k, threshold=threshold, backend=backend_of(backend))
    found, to_stdout = Predicted(), str(output) == STANDARD
    try:
        with watching() as progress, standard_input(model_dir) if source == [STANDARD] else nullcontext(source) as read:
            predict_file(model_dir, Source.of(read), output, asked=asked, predicted=found, progress=progress)
    except KeyboardInterrupt:
        if not to_stdout and found.rows:
            echo(f"{found.rows:,} rows are kept in {output}.part: the same command goes on", err=True)
        raise
    again = f" ({found.resumed:,} of them from an earlier run)" if found.resumed else ""
    echo(f"{found.rows:,} predictions{'' if to_stdout else f' in {output}'}{again}", err=to_stdout)
    if found.set_aside:
        echo("\n".join([f"{found.set_aside:,} set aside:", *found.places]), err=True)


@app.command()
def evaluate(
    model_dir: ModelDir,
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="A labelled file, or several.")],
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="OUT.json", help="Write the answers to questions, as the official script takes them."),
    ] = None,
    backend: RunBy = "torch",
    as_json: AsJson = False,
) -> None:
    """Score a model on a labelled file. The reading is recorded in the model's folder."""
    from tuning.cli.predict import evaluate_file
    from tuning.cli.progress import beside, watching
    from tuning.cli.tables import class_tables, print_table

    run_by = backend_of(backend)
    with watching() as progress:
        say = beside(progress, err=True)
        result = evaluate_file(model_dir, Source.of(data), predictions, backend=run_by, say=say, progress=progress)
    if as_json:
        print_json(result)
        return
    for key, value in result.items():
        if not isinstance(value, dict | list):
            echo(f"{key:20} {value:.6f}" if isinstance(value, float) else f"{key:20} {value:,}")
    for table in class_tables(result["classes"], result["confusion_matrix"]) if "classes" in result else ():
        echo("")
        print_table(table)


@app.command()
def describe(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="A labelled file, or several.")],
    study: Annotated[
        Path | None, typer.Option(metavar="STUDY", help="A study file, whose columns and labels are taken.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="An exported model, as for --study; or a folder or hub name with a tokenizer."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Such as classification or qa, where neither a study nor a model says it.")
    ] = None,
    as_json: AsJson = False,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the same as a page with plots.")
    ] = None,
) -> None:
    """Look at a file before you train on it: labels, duplicates, lengths, unknown characters, what is set aside.

    With --study also the texts of dev and test that are trained on; for questions the best score that a model can
    reach.
    """
    from tuning.cli.describe import described, describing_task
    from tuning.cli.progress import watching
    from tuning.cli.tables import print_table, table_of

    with watching() as progress:
        source = Source.of(files)
        found = described(describing_task(source, study, model, task, progress=progress), source, study, page)
    if as_json:
        print_json(found)
    else:
        print_table(table_of(found))


@app.command()
def ui(
    sweep_dir: Annotated[
        Path | None, typer.Argument(metavar="[SWEEP_DIR]", help="A sweep whose store to show.")
    ] = None,
    output: Output = SWEEPS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Open the MLflow UI on the store in use, until Ctrl-C."""
    from search_spaces.distributions import Constant
    from tuning.sweep_dir.layout import SPOOL
    from tuning.tracking import resolve_tracking_uri, show_ui

    study = _study_of(sweep_dir) if sweep_dir else None
    uri = resolve_tracking_uri(
        study.tracking.uri if study else None, sweep_dir.resolve().parent if sweep_dir else output
    )
    of_sweep: dict[str, Any] = {}
    if sweep_dir and study:
        searched = [name for name, each in study.space.items() if not isinstance(each, Constant)]
        of_sweep = {"spool": sweep_dir / SPOOL, "objective": study.objective, "parameters": searched}
    raise typer.Exit(show_ui(uri, host=host, port=port, say=echo, **of_sweep))


def _study_of(sweep_dir: Path) -> StudyConfig:
    from tuning.sweep_dir.saved_study import load_sweep_study

    return load_sweep_study(sweep_dir)


def _show_dry_run(found: DryRun, console: Console) -> None:
    from tuning.cli.display import Display

    for key, value in found.lines():
        Display(console).say(f"{key:24} {value}")
    for warning in found.warnings:
        console.print(Text.assemble(("warning:", "yellow"), f" {printable(warning)}"), soft_wrap=True)


def verdict_in_words(result: SweepResult) -> str:
    """What the winner's value is worth."""
    from kobert_core.folds import SPREAD

    verdict = result.verdict
    if verdict is None:
        luck = f"not confirmed: its value is the best of {sum(result.states.values())} noisy ones, and so partly luck"
        if result.winner and SPREAD in result.winner.metrics:
            return f"{luck}; over its folds it varies by {result.winner.metrics[SPREAD]:.4f} (standard deviation)"
        return f"{luck}; `confirm: {{}}` in the study trains the best again with other seeds"
    if verdict.means is None:
        return f"verdict: {verdict.sentence}"
    found, confirmed = verdict.value, verdict.means[verdict.candidate]
    return f"verdict: {verdict.sentence}; trial {verdict.candidate} had {found:.4f} in the search, {confirmed:.4f} here"


def _summarise(result: SweepResult, console: Console) -> None:
    from tuning.cli.display import Display, short_values, values_as_text
    from tuning.cli.supervisor import command_to_go_on
    from tuning.sweep.comparison import compared
    from tuning.sweep_dir.trial_table import standing

    say = Display(console).say
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(result.states.items()))
    say(f"{result.folder.name}: {states or 'no trials'}, {span(result.seconds)}")
    if result.interrupted or result.gave_up:
        say(f"{result.gave_up or 'interrupted'}; go on with: {command_to_go_on()}")
    if result.winner is None:
        if not (result.interrupted or result.gave_up):
            say("no trial came to a model; see `kobert-tune logs`")
        return
    winner = result.winner
    trials = (winner, *result.comparison.baselines)
    say(f"winner: trial {winner.trial}, {values_as_text(winner, short_values(trials))}")
    baselines = tuple(record for record in result.comparison.baselines if record.trial != winner.trial)
    for who, record in compared(winner, baselines).items():
        metrics = {name: value for name, value in record.metrics.items() if name.startswith("eval/")}
        for name, value in (*sorted(metrics.items()), *sorted(result.test.get(who, {}).items())):
            say(f"  {name:16} {value:.6g}  ({standing(record)})")
    for note in result.comparison.notes:
        say(f"note: {note}")
    say(verdict_in_words(result))
    for line in result.extras():
        say(line)
    if result.model:
        say(f"model: {result.model}")
    if (result.folder / REPORT).is_file():
        say(f"report: {result.folder / REPORT}")
    say(f"look at all trials in MLflow: kobert-tune ui {shlex.quote(str(result.folder))}")
