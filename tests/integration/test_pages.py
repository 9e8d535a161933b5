"""The how-to pages as their reader does them: the blocks of each page in their order, in a folder of the reader's.

The sweep is that of `docs/first-ten-minutes.md`. Pages that take minutes are in `test_pages_whole.py`.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModel, BertConfig

from tests.fixtures.commands import ROOT, tune
from tests.fixtures.encoders import make_encoder
from tests.fixtures.pages import page, pages
from tests.fixtures.reader import NOT_RUN, SHELL, Reader, is_run, lines_of
from tests.fixtures.serving import served
from tests.fixtures.tiny import SIZES
from tests.fixtures.tokenizers import TEXTS

SAMPLE = ROOT / "search_spaces" / "sample"
CLASSES = ("긍정", "부정", "중립")


def reviews(folder: Path) -> Path:
    """`reviews.csv`: sixty rows of three classes with Korean names of columns, as Excel saves them."""
    texts = [" ".join(some) for some in itertools.permutations(TEXTS, 3)]
    rows = [(number + 1, text, CLASSES[number % 3]) for number, text in enumerate(texts[:60])]
    pd.DataFrame(rows, columns=["번호", "리뷰", "감정"]).to_csv(folder / "reviews.csv", index=False, encoding="cp949")
    return folder / "reviews.csv"


def test_every_block_that_can_be_run_is_run_by_a_test() -> None:
    """By one that names its page; here, or where the subject of the page is tested."""
    tests = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "docs"]
    for each in pages():
        lines = [line for block in each.blocks if block.language in SHELL for line in lines_of(block)]
        if "/ko/" in each.name or each.name.endswith(".ko.md"):
            continue  # the code of a Korean page is that of the English one, by `test_korean.py`
        if any(map(is_run, lines)) or each.code("python"):
            assert any(f'"{each.name}"' in text for text in tests), each.name


def test_what_is_not_run_is_on_a_page() -> None:
    lines = [line for each in pages() for block in each.blocks if block.language in SHELL for line in lines_of(block)]
    for begin in NOT_RUN:
        assert any(line.startswith(f"{begin} ") or line == begin for line in lines), begin


def test_comparing_models(reader_work: Path) -> None:
    shutil.copytree(reader_work / "sweeps" / "first", reader_work / "sweeps" / "second")
    reader = Reader("docs/compare.md", reader_work)
    reader.type("kobert-tune export sweeps/first --trial 0 --output former-model")
    shutil.copytree(reader_work / "former-model", reader_work / "third-model")
    reader.read()


def test_predictions(reader_work: Path) -> None:
    here = {"MODEL_DIR": "best", "INPUT...": "test.tsv", "FILE": "answers.csv"}
    reader = Reader("docs/predict.md", reader_work, here)
    reader.read()
    assert len(pd.read_csv(reader_work / "answers.csv")) == 160
    assert reader.names["predictor"].columns == ("text",)
    (piped,) = [line for block in reader.page.blocks for line in lines_of(block) if "|" in line]
    said = json.loads(reader.type(piped))
    assert said["text"] == "정말 재미있어요" and said["name"] in ("positive", "negative")


def test_looking_at_a_file(reader_work: Path) -> None:
    table = pd.read_csv(reviews(reader_work), encoding="cp949")
    table.rename(columns={"번호": "id", "리뷰": "document"}).assign(label=table["번호"] % 2).to_csv(
        reader_work / "reviews.tsv", sep="\t", index=False
    )
    make_encoder("roberta", reader_work / "klue" / "roberta-base")
    (reader_work / "parts").mkdir()
    rows = pd.read_csv(reader_work / "test.tsv", sep="\t")
    for name, part in (("a", rows[:80]), ("b", rows[80:])):
        part.to_csv(reader_work / "parts" / f"{name}.csv", index=False)
    reader = Reader("docs/data.md", reader_work)
    reader.type("kobert-tune init reviews.csv --model klue/roberta-base")
    reader.read()
    assert all(name in (reader_work / "reviews.html").read_text("utf-8") for name in CLASSES)
    (told,) = [block.text for block in reader.page.blocks if block.text.startswith("reviews.csv: read as")]
    done = tune("describe", "reviews.csv", "--study", "study.yaml", "--json", cwd=reader_work)
    assert done.stderr == told, "a plain line, once"


def study_of(reader: Reader) -> None:
    reviews(reader.folder)
    make_encoder("bert", reader.folder / "models" / "my-encoder")


def test_writing_a_study(tmp_path: Path) -> None:
    reader = Reader("docs/studies.md", tmp_path)
    study_of(reader)
    ((shown, _),) = reader.read(leave_out=("kobert-tune sweep study.yaml\n",))
    init = next(line for block in reader.page.blocks for line in lines_of(block))
    assert reader.type(f"{init} --output again.yaml").replace("again.yaml", "study.yaml") == shown.text


@pytest.mark.slow
def test_a_study_that_was_written_runs(tmp_path: Path) -> None:
    reader = Reader("docs/studies.md", tmp_path)
    study_of(reader)
    reader.read()
    assert json.loads((tmp_path / "sweeps" / "reviews" / "winner.json").read_text("utf-8"))["verdict"] is None


def test_another_encoder(shared: Path, tmp_path: Path) -> None:
    """KoBERT's tokenizer files, beside a small BERT."""
    kobert = tmp_path / "skt" / "kobert-base-v1"
    kobert.mkdir(parents=True)
    for file in (shared / "models" / "skt-kobert-base-v1").iterdir():
        shutil.copyfile(file, kobert / file.name)
    torch.manual_seed(0)
    model = AutoModel.from_config(BertConfig(vocab_size=8002, **SIZES))
    torch.save(model.state_dict(), kobert / "pytorch_model.bin")
    model.config.to_json_file(kobert / "config.json")
    reader = Reader("docs/encoders.md", tmp_path)
    reader.read()
    assert reader.names["tokenizer"].tokenize("재미있다") and reader.names["model"].config.vocab_size == 8002


def test_a_search_is_a_study_of_optuna(reader_work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader_work)
    reader = Reader("docs/optuna-dashboard.md", reader_work)
    reader.read(leave_out=("optuna-dashboard",))
    table = reader.names["study"].trials_dataframe()
    assert len(table) >= 8 and set(table["state"]) <= {"COMPLETE", "PRUNED"}


def masked(text: str) -> Any:
    """JSON without its numbers."""
    return json.loads(re.sub(r"\d+\.\d+(e-\d+)?", "0.5", text))


def test_serving(reader_work: Path) -> None:
    """Both pages ask one server, which is started as the first of them does it."""
    start, *asking = [
        line
        for name in ("docs/deploy.md", "docs/serving.md")
        for block in page(name).blocks
        for line in (lines_of(block) if block.language in SHELL else ())
        if line.startswith(("kobert-tune serve best ", "curl "))
    ]
    words = shlex.split(start)[3:]
    assert words == ["--host", "0.0.0.0", "--port", "8000"] and len(asking) == 7
    with served(reader_work / "best", *words[:2], log=reader_work / "server.log") as server:
        here = {"http://127.0.0.1:8000": f"http://127.0.0.1:{server.port}"}
        assert json.loads(Reader("docs/deploy.md", reader_work, here).type(asking[0])) == {"status": "ready"}
        shown = Reader("docs/serving.md", reader_work, here).read(leave_out=("kobert-tune serve",))
    assert len(shown) == 3
    for block, printed in shown:
        assert masked(printed) == masked(block.text), block


def test_from_a_sweep_to_a_server(reader_work: Path) -> None:
    shutil.copytree(reader_work / "best", reader_work / "former-model")
    Reader("docs/deploy.md", reader_work).read(leave_out=("kobert-tune serve", "curl"))
