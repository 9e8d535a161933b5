"""What `init` writes: a study that runs as it is, with what was seen in the file as comments."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kobert_core.data.description import table_of
from kobert_core.data.dialect import UTF_8
from kobert_core.data.formats import BINARY
from kobert_core.data.source import Source
from kobert_core.data.survey import share_of
from kobert_core.data.text_files import display_name, encoding_of
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_text, check_output
from kobert_core.progress import Progress
from kobert_core.tasks import SPECS
from kobert_core.tasks.base import Task
from kobert_core.tasks.examples import Examples
from kobert_core.tasks.labelled_texts.columns import DEFAULT_ID
from kobert_core.tasks.labelled_texts.config import LabelledTextsData
from kobert_core.tokenization import load_tokenizer
from search_spaces.validation import show, suggest_known
from tuning.study import load_study
from tuning.study.guess import Guess, guess
from tuning.study.schema import packaged_schema
from tuning.sweep.preflight import CheckedStudy, check_study, spoilers_of, this_machine

KOBERT = "skt/kobert-base-v1"
LENGTHS = (32, 48, 64, 96, 128, 192, 256)
"""Lengths in tokens of which the first is taken that cuts off few texts."""
SMALL = 384
"""Units of an encoder that takes a larger learning rate."""
FEW_ROWS, MANY_ROWS = 2000, 30_000
FOLDS, TOO_FEW_ROWS = 5, 500
"""Where there are fewer rows, a dev split of them can tell nothing, and each is held out once."""
ON_CPU, DEV_ON_CPU = 3000, 1000
"""Examples that a trial reads where there is no GPU."""
MAX_BAD = 0.2
"""A larger share of rows that cannot be used is no file to train on, or a wrong guess."""
MAX_LABELS = 20
"""So many are written down; more are read from the file."""


@dataclass(frozen=True)
class Written:
    """A study that was written."""

    path: Path
    lines: list[str]
    """What was seen and guessed, for people."""


def schema_line() -> str:
    """The first line of a study, by which editors find the schema of the package that is installed here."""
    return f"# yaml-language-server: $schema={packaged_schema().as_uri()}"


def copy_example(name: str, output: Path | None) -> list[Path]:
    """Copy a study of the package, and the data that comes with it, to here or to a file. What was written.

    Raises:
        InputError: there is no such example, or a file is there already.
    """
    folder = packaged_schema().parent
    known = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise InputError(f"there is no example `{name}`", where="--example", fix=suggest_known(name, known))
    output = output or Path(known[name].name)
    text = known[name].read_text(encoding="utf-8")
    copies = {output.parent / file: folder / file for file in re.findall(r"^ *\w+: (sample/\S+)", text, re.MULTILINE)}
    for path in (output, *copies):
        _refuse_existing(path)
    for path, source in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    atomic_write_text(output, "\n".join([schema_line(), *text.splitlines()[1:]]) + "\n")
    return [output, *copies]


def write_study(
    data: str,
    output: Path,
    *,
    task: str | None,
    model: str | None,
    text: str | None,
    label: str | None,
    progress: Progress,
) -> Written:
    """Look at a file, and write a study that trains on it.

    Args:
        data: The file, or a pattern.
        output: The study file to write.
        task: What it is for; guessed where None.
        model: Folder or name of the encoder; where None KoBERT, or a small one with random weights where that is not
            here and cannot be had.
        text: The column of the text; guessed where None.
        label: The column of the label; guessed where None.
        progress: Hears how far it has come.

    Raises:
        InputError: the file or the model cannot be used, or the study file is there already.
    """
    _refuse_existing(output)
    if task is not None and task not in SPECS:
        raise InputError(f"there is no task `{task}`", where="--task", fix=suggest_known(task, SPECS))
    source = Source.of(data)
    seen = guess(source.starting_from(Path.cwd()), task=task, text=text, label=label)
    encoder, why = _model_section(model, output)
    draft = _Draft(source, output, seen, encoder, why)
    draft.look(draft.checked(progress))
    content = draft.text()
    with _beside(output, content) as file:
        load_study(file).check()
    _refuse_existing(output)
    atomic_write_text(output, content)
    return Written(output, draft.told())


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise InputError("is there already, and nothing is overwritten", where=path, fix="give another --output")
    check_output(path)


@contextmanager
def _beside(output: Path, content: str) -> Iterator[Path]:
    """A study for a moment, in the folder where it will be: relative paths start there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=".init.", suffix=".yaml")
    os.close(handle)
    try:
        Path(name).write_text(content, encoding="utf-8")
        yield Path(name)
    except InputError as error:
        raise InputError(str(error).replace(name, str(output))) from error
    finally:
        Path(name).unlink()


def _model_section(model: str | None, output: Path) -> tuple[dict[str, Any], str]:
    """The `model` section, and why it is so."""
    if model is not None:
        if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
            fix = "give a folder as transformers' `save_pretrained` writes it, or a name on the HuggingFace hub"
            raise InputError("this folder has no encoder: there is no config.json in it", where=model, fix=fix)
        load_tokenizer(model)
        if not Path(model).is_dir():
            return {"backbone": model}, "a name on the HuggingFace hub"
        path = os.path.relpath(model, output.absolute().parent)
        return {"backbone": path if path.startswith("..") else f"./{path}"}, "a folder; paths start from this file"
    try:
        load_tokenizer(KOBERT)
        return {"backbone": KOBERT}, "KoBERT; any other encoder that reads Korean takes its place, or a folder with one"
    except InputError:
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        why = f"{KOBERT} cannot be had here: a small BERT with random weights, which learns little, stands in its place"
        return {"init": "random", "tokenizer_vocab_size": 2000, "config": sizes}, why


class _Draft:
    """A study that is being written."""

    def __init__(self, source: Source, output: Path, seen: Guess, model: dict[str, Any], why_model: str) -> None:
        self._source, self._seen, self._model, self._why_model = source, seen, model, why_model
        self._output = output
        entries = source.starting_from(Path.cwd()).entries
        train = [each if "://" in each else os.path.relpath(each, output.absolute().parent) for each in entries]
        self._train = train[0] if len(train) == 1 else train
        self._gpus = this_machine()["GPU"]
        self._is_table = issubclass(SPECS[seen.task].Data, LabelledTextsData)
        self._found: dict[str, Any] = {}
        self._notes: list[str] = []
        self._limits: dict[str, tuple[object, str]] = {}
        self._rows = self._duplicates = 0
        self._length: tuple[int, str] | None = None
        self._lr = self._head_lr = (0.0, 0.0, 0.0)
        self._split: dict[str, float] = {"dev_fraction": 0.1 if seen.rows > FEW_ROWS else 0.2}
        """How rows are held out by which trials are compared."""
        self._confirmed = True

    def checked(self, progress: Progress) -> CheckedStudy:
        """The study with limits that let all rows pass, and a model of it. Where a dev split is too small to confirm a
        winner on it has folds, if these can be made.

        Raises:
            InputError: the rows cannot be split at all, or the study cannot be used.
        """
        limits = {"max_bad_fraction": 1.0, "max_leak": 1.0} | ({"max_length": LENGTHS[0]} if self._is_table else {})
        values: dict[str, Any] = {
            "schema_version": 1,
            "name": "draft",
            "task": self._seen.task,
            "data": {"train": self._train, **self._seen.data, **limits},
            "model": self._model,
        }
        tries: list[tuple[dict[str, float], bool]] = [
            (self._split, True),
            ({"folds": FOLDS}, False),
            (self._split, False),
        ]
        if self._seen.rows < TOO_FEW_ROWS:
            tries[:2] = reversed(tries[:2])
        for self._split, self._confirmed in tries:
            more = {"data": values["data"] | self._split} | ({"confirm": {}} if self._confirmed else {})
            with _beside(self._output, _as_json(values | more)) as file:
                study = load_study(file)
            try:
                return check_study(study, None, progress=progress)
            except InputError as error:
                if "data.holdout_fraction" not in str(error) and "data.folds" not in str(error):
                    raise
        raise AssertionError

    def look(self, checked: CheckedStudy) -> None:
        """See what is in the data, and choose values by it.

        Raises:
            InputError: it would spoil all trials.
        """
        for problem in spoilers_of(checked):
            raise problem
        task, file = checked.task, checked.study.data.train
        self._found = dict(task.describe(file))
        self._rows = self._found["examples"] if self._is_table else task.train.items + task.dev.items
        self._notes += [f"read as {name}" for name in _encodings(file)]
        self._look_for_bad_rows(file)
        if self._is_table:
            (rows,) = task.texts(file).values()
            self._duplicates = int(table_of(rows)["exact"].duplicated().sum())
        leak = task.leaks(None)["dev"].share
        if leak > task.data.limits.leak or leak > 0.01:
            told = f"{leak:.1%} of the dev split is also trained on: texts are there twice"
            self._limits["max_leak"] = (_rounded_up(leak), told)
        if self._is_table:
            self._length = self._length_for(task)
        self._scale(task)

    def _look_for_bad_rows(self, file: Source) -> None:
        bad = int(self._found["set_aside"])
        share = bad / max(1, bad + self._rows)
        places = "; ".join(self._found["set_aside_places"][:2])
        if bad:
            self._notes.append(f"{share_of(bad, bad + self._rows)} cannot be used: {places}")
        if share > MAX_BAD:
            what = f"{bad:,} of {bad + self._rows:,} rows cannot be used: {places}"
            raise InputError(what, where=file, fix="mend them, or name other columns: --text-column, --label-column")
        if share > 0.01:
            self._limits["max_bad_fraction"] = (_rounded_up(share), "part of the rows that may be set aside")

    def _length_for(self, task: Task[Examples]) -> tuple[int, str]:
        longest = int(self._found["tokens"]["p99"])
        room = int(getattr(task.hf_config(), "max_position_embeddings", 512)) - 2
        able = [length for length in LENGTHS if length <= room] or [room]
        length = next((length for length in able if length >= longest), able[-1])
        return length, f"tokens; 99 of 100 {'pairs' if self._found_pairs else 'texts'} have {longest} or fewer"

    @property
    def _unit(self) -> str:
        return "rows" if self._is_table else "questions" if "questions" in self._found else "texts"

    @property
    def _why_folds(self) -> str:
        return f"the {self._unit} are few: each is held out once, and a trial trains {FOLDS} times"

    @property
    def _found_pairs(self) -> bool:
        return "pair_column" in self._seen.data

    def _scale(self, task: Task[Examples]) -> None:
        """Learning rates: where they begin, where they end, and the usual one."""
        if "backbone" not in self._model:
            self._lr = self._head_lr = (5e-4, 5e-3, 1e-3)
        elif int(getattr(task.hf_config(), "hidden_size", SMALL + 1)) <= SMALL:
            self._lr, self._head_lr = (5e-5, 3e-4, 1e-4), (1e-4, 1e-2, 1e-3)
        else:
            self._lr, self._head_lr = (1e-5, 1e-4, 5e-5), (1e-5, 1e-3, 5e-5)

    def text(self) -> str:
        """The study file."""
        seen, gpus = self._seen, self._gpus
        objective = self._objective()
        epochs = 4 if self._rows < FEW_ROWS else 3 if self._rows < MANY_ROWS else 2
        epochs = 8 if "backbone" not in self._model else epochs
        top = 3 if gpus else 1
        lines = [
            schema_line(),
            f"# Written by `kobert-tune init`, which looked at {self._source.name}. Beside what it guessed stands why.",
            f"#   kobert-tune sweep {self._output.name} --dry-run    checks everything, and runs nothing",
            f"#   kobert-tune space {self._output.name}              shows what will be tried",
            f"#   kobert-tune sweep {self._output.name}              searches",
            "schema_version: 1",
            f"name: {_scalar(self._name())}",
            f"task: {seen.task} # {seen.reasons['task']}",
            "",
            "data: # paths start from this file's folder",
            *(f"  {line}" for line in self._data()),
            "",
            "model:",
            f"  # {self._why_model}",
            *(f"  {name}: {_flow(value)}" for name, value in self._model.items()),
            "",
            "train:",
            f"  epochs: {epochs}",
            "",
            "parameters: # what is searched; all else is fixed, or has its default",
            f"  optim.backbone_lr: {{distribution: log_uniform, min: {_e(self._lr[0])}, max: {_e(self._lr[1])}}}"
            " # of the encoder",
            f"  optim.classifier_lr: {{distribution: log_uniform, min: {_e(self._head_lr[0])}, "
            f"max: {_e(self._head_lr[1])}}} # of the head",
            "  optim.warmup_ratio: {distribution: uniform, min: 0.0, max: 0.2} # part of the steps",
            "  optim.effective_batch_size: {values: [16, 32]} # examples of a step",
            "",
            f"objective: {{metric: {objective[0]}, mode: {objective[1]}}}",
            "",
            "search:",
            "  points: # trial 0, which the others are compared with",
            f"    - {{optim.backbone_lr: {_e(self._lr[2])}, optim.classifier_lr: {_e(self._head_lr[2])}, "
            "optim.warmup_ratio: 0.1, optim.effective_batch_size: 32}",
            "",
            "scheduler: {name: asha, grace_percent: 20, reduction_factor: 3} # a third goes on at each rung",
            "",
            *(
                [
                    "# The best trials, and trial 0, again with other seeds, on rows that chose nothing: is it better?",
                    f"confirm: {{top: {top}, seeds: 3}}",
                    "",
                ]
                if self._confirmed
                else []
            ),
            "resources: {gpus_per_worker: 1} # a GPU for each trial"
            if gpus
            else "# resources: {gpus_per_worker: 1} # there is no GPU here",
            "",
            f"budget: {{trials: {20 if gpus else 10}}} # also wall_time: 2h",
        ]
        return "\n".join(lines) + "\n"

    def _data(self) -> Iterator[str]:
        what = f"{self._rows:,} {self._unit} can be used"
        yield f"train: {_flow(self._train)} # {_comment('; '.join([what, *self._notes]))}"
        yield "# test: another-file.csv # a labelled file that is read once, at the end"
        for name, value in self._seen.data.items():
            yield f"{name}: {_flow(value)}" + (f" # {_comment(why)}" if (why := self._seen.reasons.get(name)) else "")
        if self._seen.labels and len(self._seen.labels) <= MAX_LABELS:
            yield f"labels: {_flow(self._seen.labels)} # {_comment(self._counts())}"
        for name, value in self._split.items():
            why = self._why_folds if name == "folds" else "trials are compared on this part of the rows"
            yield f"{name}: {value} # {why}"
        if self._length:
            yield f"max_length: {self._length[0]} # {self._length[1]}"
        if not self._gpus and self._rows > ON_CPU:
            yield f"max_train_examples: {ON_CPU} # all {self._rows:,} take long without a GPU"
            if self._is_table:  # of questions a few articles may be left, which confirm nothing
                yield f"max_dev_examples: {DEV_ON_CPU}"
        for name, (value, why) in self._limits.items():
            yield f"{name}: {value} # {_comment(why)}"

    def _counts(self) -> str:
        counts = self._found.get("classes")
        if not isinstance(counts, Mapping):
            return "the labels of the file"
        order = {name: place for place, name in enumerate(self._seen.labels or ())}
        names = sorted(counts, key=lambda name: order.get(name, len(order)))
        return f"rows: {', '.join(f'{counts[name]:,} {name}' for name in names)}"

    def _objective(self) -> tuple[str, str]:
        own = SPECS[self._seen.task].objective
        counts = self._found.get("classes")
        if self._seen.task == "classification" and isinstance(counts, Mapping):
            largest = max(counts.values()) / max(1, sum(counts.values()))
            if largest > 2 / len(counts):
                return "eval/f1", "max"  # of classes of unlike size, accuracy sees the largest
        return own.metric, own.mode

    def _name(self) -> str:
        stem = Path(self._source.name.partition(",")[0]).name.partition(".")[0]
        return re.sub(r"[^\w.-]+", "-", stem).strip("-._")[:80] or "study"

    def told(self) -> list[str]:
        """What was seen and guessed."""
        seen = self._seen
        what = f"{self._rows:,} {self._unit}"
        lines = [f"{self._source.name}: {'; '.join([what, *self._notes])}"]
        lines.append(f"task: {seen.task} ({seen.reasons['task']})")
        for name, value in seen.data.items():
            why = f" ({reason})" if (reason := seen.reasons.get(name)) else ""
            lines.append(f"{name}: {_flow(value)}{why}")
        if seen.columns:
            used = {each for value in seen.data.values() for each in (value if isinstance(value, list) else [value])}
            used |= {DEFAULT_ID} if "id_column" not in seen.data else set()
            left = [name for name in seen.columns if name not in used]
            lines += [f"columns that are not read: {', '.join(map(show, left))}"] if left else []
        if seen.labels:
            lines.append(f"labels: {self._counts()}")
        if self._length:
            lines.append(f"max_length: {self._length[0]} ({self._length[1]})")
        if self._duplicates:
            lines.append(f"{share_of(self._duplicates, self._rows)} of the rows repeat the text of an earlier one")
        lines += [f"{name}: {value} ({why})" for name, (value, why) in self._limits.items()]
        lines.append(f"model: {self._model.get('backbone', 'random')} ({self._why_model})")
        if "folds" in self._split:
            lines.append(f"folds: {FOLDS} ({self._why_folds})")
        if not self._confirmed:
            lines.append("no `confirm`: it needs rows that no trial is chosen by, and there are too few")
        return lines


def _encodings(file: Source) -> list[str]:
    """Those of files of text that are not UTF-8."""
    paths = [path for path in file.local_paths() if path.is_file() and path.suffix.lower() not in BINARY]
    return sorted({display_name(found) for path in paths if (found := encoding_of(path)) != UTF_8})


def _as_json(values: object) -> str:
    import json

    return json.dumps(values, ensure_ascii=False)


def _rounded_up(share: float) -> float:
    return math.ceil(100 * share) / 100


def _e(number: float) -> str:
    mantissa, exponent = f"{number:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _comment(text: str) -> str:
    return " ".join(text.split())


def _flow(value: object) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value) if isinstance(value, str) else _as_json(value)


def _scalar(text: str) -> str:
    """A text, in quotes where it would be read as something else."""
    try:
        plain = YAML(typ="safe", pure=True).load(f"[{text}]") == [text]
    except (YAMLError, ValueError):
        plain = False
    return text if plain else _as_json(text)
