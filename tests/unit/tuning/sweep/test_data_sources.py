"""Studies whose data is one file, as it always was; or several, a workbook, a data set."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pytest

from kobert_core.data import hf_datasets
from kobert_core.data.formats import read_table
from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.pretrained import read_train_config
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.tasks.question_answering.squad import read_squad
from tests.fixtures.commands import ROOT, tune_here
from tests.fixtures.tiny import SAMPLE, SIZES, tiny_config
from tuning.study import StudyConfig, dump_study, load_study
from tuning.sweep.dry_run import look
from tuning.sweep.preflight import files_of, is_here
from tuning.sweep.train_local import train_once
from tuning.sweep_dir import provenance
from tuning.sweep_dir.provenance import files_under

DIGESTS = (
    "b60b5e042c2d765b014f7a3a00535a188b4d2bb213298ca4a92e674bd97b7990",
    "bb9c975191fe75b8c8837115fd85664f115e4f786a724f579d9f9f127f9c0e20",
)
"""Of the sample's files."""
DOCS = (ROOT / "docs" / "data.md").read_text("utf-8")
MODEL = f"model: {{init: random, tokenizer_vocab_size: 40, config: {json.dumps(SIZES)}}}\n"
HEADER = "번호,리뷰,감정\n"


def reviews(first: int, count: int) -> list[list[Any]]:
    words = {"부정": "시간이 아까웠다", "중립": "그저 그랬다", "긍정": "정말 재미있어요"}
    return [
        [number, f"{words[label]} {number}", label]
        for number, label in zip(range(first, first + count), list(words) * count, strict=False)
    ]


def csv_of(rows: list[list[Any]], delimiter: str = ",") -> str:
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that docs/data.md names, of 60 reviews or 30."""
    home = tmp_path_factory.mktemp("home")
    train, test = reviews(0, 60), reviews(60, 30)
    (home / "plain.csv").write_text(csv_of(train), "utf-8")
    (home / "semicolon.csv").write_text(csv_of([HEADER.strip().split(","), *train], ";"), "utf-8")
    (home / "cp949.csv").write_bytes((HEADER + csv_of(train)).encode("cp949"))
    (home / "one.csv").write_text(HEADER + csv_of(train[:30]), "utf-8")
    names = HEADER.strip().split(",")
    items = [dict(zip(names, row, strict=True)) for row in train[30:]]
    (home / "two.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    for folder in ("parts", "csvs"):
        (home / folder).mkdir()
    (home / "parts" / "b.csv").write_text(HEADER + csv_of(test[:15]), "utf-8")
    (home / "parts" / "a.csv").write_text(HEADER + csv_of(test[15:]) + "1\n", "utf-8")
    (home / "csvs" / "train.csv").write_text(HEADER + csv_of(train), "utf-8")
    (home / "csvs" / "test.csv").write_text(HEADER + csv_of(test), "utf-8")
    book = openpyxl.Workbook()
    book.worksheets[0].title = "about"
    for name, rows in (("train", train), ("test", test)):
        sheet = book.create_sheet(name)
        for row in [names, *rows]:
            sheet.append(row)
    book.save(home / "book.xlsx")
    splits = {name: dict(zip(names, zip(*rows, strict=True), strict=True)) for name, rows in (("train", train),)}
    datasets.DatasetDict({name: datasets.Dataset.from_dict(rows) for name, rows in splits.items()}).save_to_disk(
        home / "saved"
    )
    return home


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def study_of(home: Path, folder: Path, data: str) -> StudyConfig:
    (home / "study.yaml").write_text(f"schema_version: 1\nname: own\ntask: nsmc\n{data}\n{MODEL}", "utf-8")
    return load_study(home / "study.yaml")


def test_one_file_is_as_it_always_was() -> None:
    """Values of the version before several files could be given: caches, resumed sweeps and exports depend on them."""
    config = tiny_config()
    assert config.model_dump_json(exclude_unset=True) == (
        f'{{"task":"nsmc","data":{{"train":"{SAMPLE}/train.tsv","dev_fraction":0.25,"max_length":32}},"model":'
        '{"init":"random","config":{"hidden_size":32,"num_hidden_layers":2,"num_attention_heads":2,'
        '"intermediate_size":64},"tokenizer_vocab_size":1024},"optim":{"backbone_lr":0.001,"classifier_lr":0.001,'
        '"batch_size":32},"train":{"epochs":1.0,"eval_percent":50}}'
    )
    key = task_class("nsmc")(config)._file_key(config.data.train)
    assert hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest() == (
        "f2378b4b1ef04cb494bd467ad5330edf5c51020c2ec81587e29f15f4d1a29223"
    )
    study = load_study(SAMPLE.parent / "quickstart.yaml", ["confirm=null"])
    assert json.loads(json.dumps(study.resolved()["data"])) == {
        **{"train": f"{SAMPLE}/train.tsv", "test": f"{SAMPLE}/test.tsv", "dev_fraction": 0.25, "split_seed": 0},
        **{"max_bad_fraction": 0.01, "text_column": "document", "label_column": "label", "id_column": "id"},
        **{"labels": {"0": "negative", "1": "positive"}, "max_length": 48, "truncate": "head"},
    }
    assert files_under(study) == {"data.train": {"train.tsv": DIGESTS[0]}}
    assert provenance.test_file_of(study) == {"test.tsv": DIGESTS[1]}
    assert files_of(study) == [SAMPLE / "train.tsv", SAMPLE / "test.tsv"] and is_here(study)


@pytest.mark.parametrize("data", re.findall("```yaml\n(.*?)```", DOCS, re.DOTALL))
def test_studies_of_the_docs(home: Path, tmp_path: Path, data: str) -> None:
    study = study_of(home, tmp_path, data)
    dump_study(study, tmp_path / "study.yaml")
    assert load_study(tmp_path / "study.yaml").data == study.data
    config = study.train_config(study.example_values())
    assert parse_train_config(json.loads(config.model_dump_json(exclude_unset=True))) == config
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_bad_fraction": 0.1})})
    task = task_class("nsmc")(config, cache=tmp_path / "cache")
    assert len(task.read(config.data.train)) == 60
    for source in filter(None, (config.data.dev, config.data.test)):
        assert len(task.read(source)) == 30
    assert (
        task_class("nsmc")(config, cache=tmp_path / "cache").read(config.data.train).labels.tolist() == [0, 1, 2] * 20
    )


SEVERAL = """\
data:
  train: [one.csv, two.jsonl]
  dev: parts/*.csv
  test: book.xlsx:test
  text_column: 리뷰
  label_column: 감정
  id_column: 번호
  labels: infer
  max_bad_fraction: 0.1
"""


def test_a_dry_run_on_several_files(home: Path, tmp_path: Path) -> None:
    study = study_of(home, tmp_path, SEVERAL)
    assert study.data.train == Source((f"{home}/one.csv", f"{home}/two.jsonl"))
    assert study.resolved()["data"]["labels"] == {name: name for name in ("긍정", "부정", "중립")}  # type: ignore[index]
    found = look(study, tmp_path / "sweeps" / "own", None)
    assert {name: len(examples) for name, examples in found.splits.items()} == {"train": 60, "dev": 30, "test": 30}
    assert [f"{source.name}: {place}" for source, place in found.set_aside] == [
        "*.csv: a.csv:17: 1 fields instead of 3"
    ]
    assert ("dev texts in train", "0 of 30 (0.00%)") in found.facts
    hashes = files_under(study)
    assert set(hashes["data.train"]) == {"one.csv, two.jsonl"} and set(hashes["data.dev"]) == {"*.csv"}
    assert [path.name for path in files_of(study)] == ["one.csv", "two.jsonl", "a.csv", "b.csv", "book.xlsx"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[one.csv, two.jsonl]",
            "[one.csv, three.csv]",
            "three.csv: the file cannot be read (No such file or directory)",
        ),
        ("parts/*.csv", "part/*.csv", "part/*.csv: no file matches this pattern; check its folder and its suffix"),
        ("[one.csv, two.jsonl]", "[]", "`data.train`: give a file, a pattern such as parts/*.tsv, or a list of them"),
        ("[one.csv, two.jsonl]", "{a: b}", "`data.train`: give a file, a pattern such as parts/*.tsv"),
        ("dev:", "encoding: utf9\n  dev:", "`data.encoding`: no encoding 'utf9' is known; take utf-8, cp949"),
        ("dev:", "encoding: base64\n  dev:", "`data.encoding`: no encoding 'base64' is known"),
        ("dev:", "delimiter: '||'\n  dev:", "`data.delimiter`"),
        ("dev:", "delimiter: '\"'\n  dev:", "`data.delimiter`: a field cannot end at '\"'"),
        ("dev:", "header: 0\n  dev:", "`data.header` must be a valid boolean, but got 0"),
    ],
)
def test_bad_sources_are_one_line(home: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    text = SEVERAL.replace(old, new).replace("labels: infer", "labels: [긍정, 부정, 중립]")
    (home / "bad.yaml").write_text(f"schema_version: 1\nname: own\ntask: nsmc\n{text}{MODEL}", "utf-8")
    done = tune_here("sweep", home / "bad.yaml", "--dry-run", cwd=tmp_path, code=2)
    assert message in done.stderr.replace("\n", " ") and done.stderr.count("error:") == 1


def test_train_predict_and_evaluate_on_several_files(home: Path, tmp_path: Path) -> None:
    study = study_of(home, tmp_path, SEVERAL + "train: {epochs: 1, eval_percent: 100}\n")
    train_once(study, say=lambda text: None, cache=tmp_path / "cache", output=tmp_path / "model")
    data = read_train_config(tmp_path / "model").data
    assert data.train.as_json() == ["one.csv", "two.jsonl"] and str(home) not in data.model_dump_json()
    (home / "cp949" / "new.csv").parent.mkdir()
    (home / "cp949" / "new.csv").write_bytes((HEADER + csv_of(reviews(0, 9))).encode("cp949"))
    parts = [home / "parts" / "a.csv", home / "cp949" / "new.csv"]
    done = tune_here("predict", "model", *parts, "--output", "out.jsonl", cwd=tmp_path)
    assert "24 predictions" in done.stdout and "a.csv:17: 1 fields instead of 3" in done.stderr
    assert len((tmp_path / "out.jsonl").read_text("utf-8").splitlines()) == 24
    done = tune_here("evaluate", "model", f"{home}/parts/*.csv", "--json", cwd=tmp_path)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["examples"], found["set_aside"]) == (30, 1)
    done = tune_here("describe", "saved:train", "--model", tmp_path / "model", "--json", cwd=home)
    assert json.loads(done.stdout.splitlines()[-1])["examples"] == 60


def test_a_pattern_that_finds_more_is_other_data(home: Path, tmp_path: Path) -> None:
    study = study_of(home, tmp_path, SEVERAL)
    before = files_under(study)
    (home / "parts" / "c.csv").write_text(HEADER + csv_of(reviews(90, 3)), "utf-8")
    try:
        assert files_under(study) == before | {"data.dev": {"*.csv": study.data.dev.digest()}} != before  # type: ignore[union-attr]
    finally:
        (home / "parts" / "c.csv").unlink()


def test_what_the_docs_say_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of the table are what is really said, in its order."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.csv").write_text("번호,리뷰\n1,좋다\n", "utf-8")
    (tmp_path / "utf-16.csv").write_bytes((HEADER + "1,좋다,긍정\n").encode("utf-16-le"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(HEADER.encode())[:-9])
    (tmp_path / "no.xlsx").write_bytes(b"no")
    (tmp_path / "a.json").write_text("{}", "utf-8")
    both = datasets.load_from_disk(home / "saved")
    datasets.DatasetDict({"train": both["train"], "test": both["train"]}).save_to_disk(tmp_path / "splits")
    monkeypatch.setattr(hf_datasets.importlib.util, "find_spec", lambda name: None)
    said = []
    for source in (
        tmp_path / "*.tsv",
        [home / "one.csv", tmp_path / "other.csv"],
        home / "semicolon.csv",
        tmp_path / "utf-16.csv",
        tmp_path / "cut.csv.gz",
        tmp_path / "no.xlsx",
        f"{home}/book.xlsx:tests",
        tmp_path / "a.json",
        tmp_path / "splits",
        tmp_path / "folder",
        "hf://e9t/nsmc:train",
    ):
        with pytest.raises(InputError) as error:
            list(read_table(Source.of(source), {"리뷰", "감정"})[1])
        said.append(str(error.value).replace(f"{home}/", "").partition(": ")[2].replace("`", ""))
    table = DOCS.partition("| what | what is said |")[2]
    assert said == re.findall(r"^\| .* \| `(.*)` \|$", table, re.MULTILINE)


def test_questions_in_several_files(tmp_path: Path) -> None:
    def content(first: int) -> bytes:
        context = "세종은 1443년에 훈민정음을 만들었다."
        asked = [
            {"id": f"q{n}", "question": "언제 만들었나?", "answers": [{"text": "1443년", "answer_start": 4}]}
            for n in range(first, first + 3)
        ]
        paragraphs = [{"context": context, "qas": asked}]
        whole = {"version": "KorQuAD_v1.0", "data": [{"paragraphs": paragraphs}]}
        return json.dumps(whole, ensure_ascii=False).encode("cp949" if first else "utf-8")

    (tmp_path / "a.json").write_bytes(content(0))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(content(2)))
    squad = read_squad(tmp_path / "*.json*", max_bad_fraction=0.5)
    assert [question.id for question in squad.questions if question.asked] == ["q0", "q1", "q2", "q3", "q4"]
    assert list(map(str, squad.bad)) == [
        "b.json.gz: data[0].paragraphs[0].qas[0]: id 'q2' is already at a.json: data[0].paragraphs[0].qas[2]"
    ]
    assert squad.articles == ["a.json: data[0]", "b.json.gz: data[0]"]
    with pytest.raises(InputError, match="questions are read from JSON files in the format of SQuAD; give a file"):
        read_squad("hf://squad")
    with pytest.raises(InputError, match="is a folder"):
        read_squad(tmp_path)
