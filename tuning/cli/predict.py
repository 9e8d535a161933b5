"""Predictions and scores of an exported model."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from kobert_core.data.set_aside import PLACES_SHOWN
from kobert_core.data.source import LocalPart, Source
from kobert_core.errors import InputError
from kobert_core.evaluation import RUNNING_THE_MODEL
from kobert_core.inference import Predictor
from kobert_core.io.atomic import atomic_write_json, check_output, is_disk_full
from kobert_core.io.checksums import SUMS
from kobert_core.io.record_files import PartFiles, Records, as_json_lines, format_of
from kobert_core.onnx.files import Backend
from kobert_core.pretrained import load_pretrained, read_train_config
from kobert_core.progress import Progress, unseen
from kobert_core.tasks.examples import Inputs
from tuning.sweep.evaluation import evaluate_model

STANDARD = "-"
"""In the place of a file: standard input or output."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What of a model's answers is wanted, beside the usual."""

    keep_columns: bool = False
    """All columns of the file, not only id and text."""
    top_k: int | None = None
    """In the place of the probability of each label a list of the likeliest."""
    threshold: float | None = None
    """What is less probable is left out."""
    backend: Backend = "torch"
    """What runs the model."""


USUAL = Asked()


@dataclass
class Predicted:
    """What came of a file."""

    rows: int = 0
    resumed: int = 0
    """Of these, rows that an earlier run left."""
    set_aside: int = 0
    places: list[str] = field(default_factory=list)
    """Where the first of them are, and why."""

    def add(self, inputs: Inputs[Any]) -> None:
        """Count a part."""
        self.rows += len(inputs.ids)
        self.set_aside += len(inputs.bad)
        self.places += map(str, inputs.bad[: PLACES_SHOWN - len(self.places)])


def predict_file(
    model_dir: Path,
    source: Source | Path,
    output: Path,
    *,
    asked: Asked = USUAL,
    predicted: Predicted | None = None,
    progress: Progress = unseen,
) -> Predicted:
    """Write one record for each usable row of a file: its id, its text, and the prediction.

    A file of any length takes the same memory. What is done is kept in `OUTPUT.part` until all is: the same call goes
    on where one was cut off.

    Args:
        model_dir: Folder of an exported model.
        source: The file.
        output: The file to write, in the format that its suffix names; `-` writes JSON Lines to standard output.
        asked: What of the answers is wanted.
        predicted: Is filled on the way, for those who want to know how far it came.
        progress: Hears how far it has come.

    Raises:
        InputError: the model, the file or the output cannot be used.
    """
    found, source = Predicted() if predicted is None else predicted, Source.of(source)
    if str(output) != STANDARD:
        format_of(output)
        check_output(output)
    whole = WholeFile(progress, source)
    predictor = Predictor.load(model_dir, backend=asked.backend, progress=whole)
    task = predictor.task
    task.select([], top_k=asked.top_k, threshold=asked.threshold)

    def records_of(inputs: Inputs[Any]) -> Records:
        answers = predictor.answers(inputs)
        return _records(inputs, task.select(answers, top_k=asked.top_k, threshold=asked.threshold))

    parts = task.input_parts(source, keep_columns=asked.keep_columns)
    if str(output) == STANDARD:
        for inputs in whole.watch(parts):
            sys.stdout.write(as_json_lines(records_of(inputs)))
            sys.stdout.flush()
            found.add(inputs)
        return found
    files = PartFiles(output, _made_of(model_dir, source, asked))
    try:
        for number, inputs in enumerate(whole.watch(parts)):
            if files.has(number):
                found.resumed += len(inputs.ids)
            else:
                files.write(number, records_of(inputs))
            found.add(inputs)
    except InputError:  # too much of the file is bad: there is nothing to go on with
        files.remove()
        raise
    files.join()
    return found


def _records(inputs: Inputs[Any], answers: list[dict[str, object]]) -> Records:
    """Ids, texts, what else the file has of each row, and the answers. A column of the file whose name an answer has
    is called `input_…`."""
    texts = [dict(zip(inputs.texts, row, strict=True)) for row in zip(*inputs.texts.values(), strict=True)]
    records = [{"id": one} | row | said for one, row, said in zip(inputs.ids, texts, answers, strict=True)]
    if inputs.kept is None or not records:
        return records
    taken = set(records[0])
    names = {name: f"input_{name}" if name in taken else name for name in inputs.kept[0]}
    return [
        {"id": one} | row | {names[name]: cell for name, cell in kept.items()} | said
        for one, row, kept, said in zip(inputs.ids, texts, inputs.kept, answers, strict=True)
    ]


def _made_of(model_dir: Path, source: Source, asked: Asked) -> dict[str, object]:
    model = hashlib.sha256((model_dir / SUMS).read_bytes()).hexdigest()
    return {"model": model, "input": source.digest(), **asdict(asked)}


class WholeFile:
    """The progress of a file that goes through the model part by part, as that of one work."""

    def __init__(self, progress: Progress, source: Source) -> None:
        self._progress, self._work, self._source = progress, f"predicting {source.name}", source
        self._before, self._part = 0, 0
        self._total: int | None = None

    def watch(self, parts: Iterator[Inputs[Any]]) -> Iterator[Inputs[Any]]:
        """The same parts."""
        self._total = rows_in(self._source)
        for inputs in parts:
            self._part = len(inputs.ids)
            yield inputs
            self._before += self._part
        self._progress(self._work, self._before, self._before)

    def __call__(self, work: str, done: int, total: int | None = None, /) -> None:
        """As `kobert_core.progress.Progress`."""
        if work != RUNNING_THE_MODEL or not total:
            self._progress(work, done, total)
            return
        rows = self._before + self._part * done // total
        self._progress(self._work, rows, None if self._total is None else max(self._total, rows + 1))


def rows_in(source: Source) -> int | None:
    """About how many rows a source has, if that is quickly known: the lines of plain text, or what Parquet says."""
    parts = source.parts()
    counts = [_rows_of(part.path) if isinstance(part, LocalPart) else None for part in parts]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _rows_of(path: Path) -> int | None:
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        rows: int = parquet.read_metadata(path).num_rows
        return rows
    if path.suffix.lower() not in (".tsv", ".txt", ".csv", ".jsonl", ".ndjson") or not path.is_file():
        return None
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


@contextmanager
def standard_input(model_dir: Path) -> Iterator[Path]:
    """Standard input as a file for a model: JSON in the format of SQuAD; JSON Lines, or a table whose header has the
    column of texts; or a text a line."""
    data = read_train_config(model_dir).data
    column = getattr(data, "text_column", None)
    one_text = column is not None and getattr(data, "pair_column", None) is None and data.dialect.header
    begin = sys.stdin.buffer.readline()
    suffix, header = ".json", b""
    if column is not None:
        is_json, is_table = (
            begin.lstrip().startswith(b"{"),
            column in begin.decode(errors="replace").rstrip().split("\t"),
        )
        suffix = ".jsonl" if is_json else ".tsv"
        header = f"{column}\n".encode() if one_text and not is_json and not is_table else b""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"stdin{suffix}"
        with open(path, "wb") as file:
            file.write(header + begin if begin else b"")
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def evaluate_file(
    model_dir: Path,
    source: Source,
    predictions: Path | None = None,
    *,
    backend: Backend = "torch",
    say: Callable[[str], object],
    progress: Progress = unseen,
) -> dict[str, Any]:
    """The task's metrics on a labelled file, over how many examples or questions they are a mean and how many are in
    none, how often the file was read before, and the task's scores in detail.

    The reading is recorded in the model's folder, if that can be written.

    Args:
        model_dir: Folder of an exported model.
        source: The labelled file.
        predictions: Where answers to questions go, as the official script takes them: `{question id: text}`.
        backend: What runs the model.
        say: Gets a line if the reading could not be recorded.
        progress: Hears how far it has come.

    Raises:
        InputError: the model, the file or the place for predictions cannot be used.
    """
    if predictions is not None:
        check_output(predictions)
    given: dict[str, object] = {}
    with temporary_cache() as cache:  # features on disk: a long file takes little memory
        pretrained = load_pretrained(model_dir, backend=backend, cache=cache, progress=progress)
        task = pretrained.task
        if predictions is not None and not task.spec.predictions_by_id:
            raise InputError("this model answers no questions", where=model_dir, fix="leave out --predictions")
        found = evaluate_model(pretrained, model_dir, source, by="evaluate", say=say)
        if predictions is not None:
            answers = task.answers(found.examples.ids, found.examples, found.outputs)
            given = {str(answer["id"]): answer["prediction_text"] for answer in answers if answer["id"]}
        in_detail = task.score_in_detail(found.examples, found.outputs)
    if predictions is not None:
        atomic_write_json(predictions, given)
    return found.metrics | {"earlier_readings": found.earlier_readings} | in_detail


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """A folder for features that are removed when the block ends.

    Raises:
        InputError: it cannot be made, or there is no space left for them.
    """
    fix = "set TMPDIR to a folder with more space"
    try:
        where = gettempdir()
    except FileNotFoundError as error:
        raise InputError(str(error.strerror), where="TMPDIR", fix=fix) from error
    try:
        with TemporaryDirectory(prefix="kobert-tune-") as folder:
            yield Path(folder)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise InputError("no space is left", where=where, fix=fix) from error
