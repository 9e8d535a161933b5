"""Drill 9: files that were made to do harm give rows, a study, or one clear line, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kobert_core.checkpoint import OPTIMIZER, STATE, WEIGHTS, load_state, load_weights, newest_checkpoint
from kobert_core.config import ModelConfig, Objective
from kobert_core.data.cache import cached_arrays
from kobert_core.errors import InputError
from kobert_core.io.checksums import SUMS, sha256_file
from kobert_core.models.backbone import load_encoder
from kobert_core.pretrained import load_pretrained, save_model_files, save_weights
from kobert_core.tasks.labelled_texts.columns import Columns
from kobert_core.tasks.labelled_texts.rows import Rows, read_rows
from kobert_core.tasks.question_answering.squad import Squad, read_squad
from kobert_core.tasks.text_classification.targets import ClassIndices
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.tokenization import SentencePieceTokenizer
from tests.drills.conftest import Drill
from tests.fixtures.checkpoints import save_checkpoint
from tests.fixtures.commands import ROOT
from tests.fixtures.damage import damaged
from tests.fixtures.tiny import tiny_config
from tuning.cli.app import main
from tuning.study import dump_study, load_study
from tuning.sweep_dir.layout import LEDGER, WINNER
from tuning.sweep_dir.names import sweep_name
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, read_winner

STUDIES = sorted((ROOT / "search_spaces").glob("*.yaml"))
TEXTS = [f"{text} {number}" for number, text in enumerate(["좋다", "별로, 다", 'a "최고" b', "그저 그렇다"] * 5)]
RECORDS = [{"id": str(number), "document": text, "label": str(number % 2)} for number, text in enumerate(TEXTS)]
LABELS = {"0": "negative", "1": "positive"}
COLUMNS = Columns(text="document")


@contextmanager
def no_hang(seconds: int = 30) -> Iterator[None]:
    """Fail what does not come to its end."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"no end after {seconds} s")

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(contents: st.SearchStrategy[Any], use: Callable[[Any], None], *, examples: int) -> dict[str, int]:
    """Use so many damaged contents; how many were taken and how many were refused, in one line each."""
    ends = {"taken": 0, "refused": 0}

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(contents)
    def each(content: Any) -> None:
        try:
            with no_hang():
                use(content)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            ends["refused"] += 1
        else:
            ends["taken"] += 1

    each()
    return ends


def valid_files() -> dict[str, bytes]:
    """One file of each format, by its suffix."""
    tsv = "".join("\t".join(row) + "\n" for row in [list(RECORDS[0]), *(list(record.values()) for record in RECORDS)])
    written, parquet = io.StringIO(), io.BytesIO()
    csv.writer(written).writerows([list(RECORDS[0]), *(list(record.values()) for record in RECORDS)])
    columns = {name: [record[name] for record in RECORDS] for name in ("id", "document")}
    columns["label"] = [int(record["label"]) for record in RECORDS]  # type: ignore[misc]
    pyarrow.parquet.write_table(pyarrow.table(columns), parquet)
    context = "이순신은 1545년 서울에서 태어났다."
    question = {"question": "언제?", "answers": [{"text": "1545년", "answer_start": 5}]}
    article = {"title": "이순신", "paragraphs": [{"context": context, "qas": [{"id": "{}", **question}]}]}
    articles = [json.loads(json.dumps(article).replace("{}", str(number))) for number in range(5)]
    return {
        ".tsv": tsv.encode(),
        ".csv": written.getvalue().encode(),
        ".jsonl": "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode(),
        ".parquet": parquet.getvalue(),
        ".json": json.dumps({"version": "1.1", "data": articles}, ensure_ascii=False).encode(),
    }


def check_rows(rows: Rows, content: bytes) -> None:
    """Each row that was taken stands in the file at its line, as another reader of the format reads it."""
    lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
    suffix, table = Path(str(rows.path)).suffix, None
    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(str(rows.path), columns=["id", "document", "label"])
    names = next(csv.reader(lines)) if suffix == ".csv" else lines[0].removesuffix("\r").split("\t")
    for row_id, text, label, line in zip(rows.ids, rows.texts, rows.labels.tolist(), rows.lines, strict=True):
        if table is not None:
            record = {name: table[name].slice(line - 1, 1).to_pylist()[0] for name in table.column_names}
        elif suffix == ".jsonl":
            record = json.loads(lines[line - 1])
        elif suffix == ".csv" and '"' in lines[line - 1]:
            record = dict(zip(names, next(csv.reader(part + "\n" for part in lines[line - 1 :])), strict=True))
        else:
            cells = lines[line - 1].removesuffix("\r").split("," if suffix == ".csv" else "\t")
            record = dict(zip(names, cells, strict=True))
        assert text == record["document"] and label == list(LABELS).index(str(int(str(record["label"]).strip())))
        assert "id" not in names + list(record) or row_id == str(record["id"])
    assert all(one < other for one, other in pairwise(sorted([*rows.lines, *(bad.line for bad in rows.bad)])))


def check_questions(squad: Squad, content: bytes) -> None:
    """Each question that can be trained on is one of the file, and its answers stand in its context."""
    stored = {
        (paragraph.get("context"), entry.get("id"), entry.get("question")): entry
        for article in json.loads(content.removeprefix(b"\xef\xbb\xbf"))["data"]
        if isinstance(article, dict) and isinstance(article.get("paragraphs"), list)
        for paragraph in article["paragraphs"]
        if isinstance(paragraph, dict) and isinstance(paragraph.get("qas"), list)
        for entry in paragraph["qas"]
        if isinstance(entry, dict) and isinstance(paragraph.get("context"), str) and isinstance(entry.get("id"), str)
        if isinstance(entry.get("question"), str)
    }
    for question in filter(lambda each: each.trainable, squad.questions):
        context = squad.contexts[question.context]
        entry = stored[context, question.id, question.text]
        answers = [(answer["answer_start"], answer["text"]) for answer in entry.get("answers") or ()]
        assert [(start, context[start:end]) for start, end in question.answers] == answers


def test_fuzzed_data_files(drill: Drill, tmp_path: Path) -> None:
    """9a. Fuzzed data files: rows of the file, rows set aside, or one line."""
    examples, used = 200, 0
    for suffix, valid in valid_files().items():
        path = tmp_path / f"data{suffix}"

        def use(content: bytes, path: Path = path) -> None:
            path.write_bytes(content)
            if path.suffix == ".json":
                check_questions(read_squad(path, max_bad_fraction=1.0), content)
            else:
                classes = ClassIndices(LABELS, "label")
                check_rows(read_rows(path, columns=COLUMNS, targets=classes, max_bad_fraction=1.0), content)

        use(valid)
        ends = fuzz(damaged(valid), use, examples=examples)
        assert all(ends.values()), f"{suffix}: {ends}"
        used += sum(ends.values())
    drill.lost("fuzzed data files ended in something else", 5 * examples - used, of=5 * examples)


@pytest.mark.parametrize("examples", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_fuzzed_study_files(drill: Drill, tmp_path: Path, examples: int) -> None:
    """9b. Fuzzed study files: a study that is written and read as itself, or one line."""
    path, again = tmp_path / "study.yaml", tmp_path / "again.yaml"

    def use(content: bytes) -> None:
        path.write_bytes(content)
        study = load_study(path)
        dump_study(study, again)
        assert load_study(again) == study

    ends = fuzz(st.sampled_from([file.read_bytes() for file in STUDIES]).flatmap(damaged), use, examples=examples)
    assert all(ends.values()), ends
    drill.lost("fuzzed study files ended in something else", examples - sum(ends.values()), of=examples)


def test_fuzzed_models(drill: Drill, tmp_path: Path) -> None:
    """9c. Fuzzed files of a model that somebody gave away, without its checksums: a model, or one line"""
    task = Nsmc(tiny_config())
    save_model_files(tmp_path / "model", task)
    save_weights(tmp_path / "model", Nsmc, task.build_model().state_dict())
    (tmp_path / "model" / SUMS).unlink()
    files = [file for file in sorted((tmp_path / "model").iterdir()) if not file.name.startswith(("token", "special"))]
    valid = {file: file.read_bytes() for file in files}

    def use(damage: tuple[Path, bytes]) -> None:
        file, content = damage
        try:
            file.write_bytes(content)
            loaded = load_pretrained(tmp_path / "model")
            loaded.task.tokenizer.encode("지루할 틈이 없었다")
        finally:
            file.write_bytes(valid[file])

    damages = st.sampled_from(files).flatmap(lambda file: damaged(valid[file]).map(lambda content: (file, content)))
    ends = fuzz(damages, use, examples=100)
    assert len(files) >= 4 and all(ends.values()), (files, ends)
    drill.lost("fuzzed models ended in something else", 100 - sum(ends.values()), of=100)


class Harm:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def test_no_pickle_is_loaded(drill: Drill, tmp_path: Path) -> None:
    """9d. Pickles in the place of weights, states and arrays: refused, and nothing in them is run."""
    mark, refused, tried = tmp_path / "mark", 0, 0
    harm = pickle.dumps(Harm(mark))
    in_torch = io.BytesIO()
    torch.save({"bert.embeddings.weight": Harm(mark)}, in_torch)

    for name, load in ((WEIGHTS, load_weights), (STATE, load_state), (OPTIMIZER, load_state)):
        for number, content in enumerate((harm, in_torch.getvalue())):
            folder = tmp_path / f"{name}-{number}" / "update-00000001"
            save_checkpoint(folder, torch.nn.Linear(2, 2), {"step": 1})
            (folder / name).write_bytes(content)
            sums = [f"{sha256_file(folder / each)}  {each}\n" for each in (WEIGHTS, OPTIMIZER, STATE)]
            (folder / SUMS).write_text("".join(sums))
            tried += 1
            with pytest.raises(InputError):
                load(folder)
            refused += 1

    tokenizer = SentencePieceTokenizer.train(TEXTS * 20, tmp_path / "backbone", vocab_size=60)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = {"model_type": "bert", "vocab_size": len(tokenizer), **shape}
    (tmp_path / "backbone" / "config.json").write_text(json.dumps(config))
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / "backbone" / name).write_bytes(in_torch.getvalue())
        tried += 1
        with pytest.raises(InputError, match="cannot be loaded"):
            load_encoder(ModelConfig(backbone=str(tmp_path / "backbone")), tokenizer, longest=8)
        refused += 1

    (tmp_path / "backbone" / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n")
    own = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (tmp_path / "backbone" / "config.json").write_text(json.dumps(config | own))
    tried += 1
    with pytest.raises(InputError, match="there is no model"):
        load_encoder(ModelConfig(backbone=str(tmp_path / "backbone")), tokenizer, longest=8)
    refused += 1

    def build() -> dict[str, np.ndarray]:
        return {"a": np.arange(3)}

    cached_arrays(tmp_path / "cache", {"of": "a test"}, build)
    (entry,) = (tmp_path / "cache").iterdir()
    np.save(entry / "a.npy", np.array([Harm(mark)], dtype=object), allow_pickle=True)
    tried += 1
    assert cached_arrays(tmp_path / "cache", {"of": "a test"}, build)["a"].tolist() == [0, 1, 2], "built anew"
    refused += 1

    drill.lost("pickles and modules were loaded", tried - refused, of=tried)
    drill.lost("of them were run", int(mark.exists()), of=tried)


BOMBS = {
    "aliases": "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "itself": "name: &a [*a]",
    "deep": "name: " + "[" * 300_000,
    "tag": "name: !!python/object/apply:os.mkdir [mark]",
    "new": "name: !!python/object/new:os.mkdir {args: [mark]}",
    "merge": "a: &a {b: 1}\nname:\n  <<: *a",
    "nul": "name: \0",
    "twice": "name: a\nname: b",
    "long": "#" * 100_000_000,
    "number": "name: " + "9" * 900_000,
}


def test_bombs_of_yaml(drill: Drill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """9e. Bombs of YAML, in a study file and in --set: one line, at once"""
    monkeypatch.chdir(tmp_path)
    path, refused = tmp_path / "study.yaml", 0
    for name, bomb in BOMBS.items():
        path.write_text(bomb)
        short = [f"name={bomb.removeprefix('name: ')}"] if len(bomb) < 10**6 else []
        for file, overrides in [(path, []), *((STUDIES[0], [override]) for override in short)]:
            with no_hang(), pytest.raises(InputError) as error:
                load_study(file, overrides)
            assert str(error.value).startswith("--set name" if overrides else str(path)), name
            assert "\n" not in str(error.value) and len(str(error.value)) < 1_000, name
        refused += 1
    drill.lost("bombs went off", len(BOMBS) - refused + (tmp_path / "mark").exists(), of=len(BOMBS))


NAMES = ["../up", "..", ".", "/abs", "a/b", "", ".hidden", "-flag", "line\nbreak", "bell\a", "nul\0", "가" * 80,
         "x" * 300, "\udcff", "cache", "mlartifacts", "mlflow.db", "a\u202eb"]  # fmt: skip


def test_names_cannot_leave_the_output_folder(drill: Drill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """9f. Names with ../ and worse: of sweeps, studies, experiments, trials and checkpoints"""
    taken = []
    for name in NAMES:
        for where, use in (
            ("--name", sweep_name),
            ("name", lambda name: sweep_name(load_study(STUDIES[0], [f"name={json.dumps(name)}"]).name)),
        ):
            try:
                use(name)
                taken.append((where, name))
            except InputError as error:
                assert "\n" not in str(error)
    for name in ("", "line\nbreak", "bell\a", "x" * 300):
        try:
            load_study(STUDIES[0], [f"tracking.experiment={json.dumps(name)}"])
            taken.append(("tracking.experiment", name))
        except InputError:
            pass
    table = TrialTable(tmp_path, Objective(metric="eval/accuracy"))
    table.put(TrialRecord(0, "COMPLETE", {}, value=1.0, checkpoint="update-00000001"))
    (record,) = json.loads((tmp_path / LEDGER).read_text())
    del record["sha256"]  # a forger would make a new one
    for change in (
        *({"checkpoint": name} for name in ("../x", "..", ".", "/abs", "a/b", "", 3)),
        *({"trial": number} for number in ("../x", -1, "0/../..", None, [])),
        *({"state": "WON"}, {"values": 3}, {"value": "x"}, {"more": 1}),
    ):
        (tmp_path / LEDGER).write_text(json.dumps([record | change]))
        try:
            TrialTable(tmp_path, Objective(metric="eval/accuracy"))
            taken.append((LEDGER, str(change)))
        except InputError as error:
            assert "\n" not in str(error)
    forged = ("[]", "3", "{}", '{"winner": null, "test": {}}', '{"winner": {"trial": 0}}', "[" * 99_999, "\udcff")
    for content in forged:
        (tmp_path / WINNER).write_bytes(content.encode("utf-8", "surrogateescape"))
        try:
            read_winner(tmp_path)
            taken.append((WINNER, content))
        except InputError as error:
            assert "\n" not in str(error)
    assert newest_checkpoint(tmp_path) is None
    for output in ("x" * 300, "/dev/null/model", str(tmp_path)):
        monkeypatch.setattr(sys, "argv", ["kobert-tune", "sweep", str(STUDIES[0]), "--name", "a", "--output", output])
        monkeypatch.setattr("tuning.sweep.sweep.Sweep.run", lambda *_: taken.append(("--output", "")))
        (tmp_path / "a").write_text("a file")
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
    drill.lost(f"names were taken {taken or ''}".rstrip(), len(taken), of=2 * len(NAMES) + 4 + 16 + len(forged) + 3)
