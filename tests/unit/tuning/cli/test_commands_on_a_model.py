"""What `predict`, `evaluate` and `describe` do with a model of three classes, whose columns are the user's."""

from __future__ import annotations

import codecs
import csv
import json
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from kobert_core.data.source import Source
from kobert_core.errors import InputError
from kobert_core.pretrained import TRAIN_CONFIG, load_pretrained
from kobert_core.tasks import SPECS
from tests.fixtures.browser import need_browser, page_html
from tests.fixtures.disks import Mount
from tests.fixtures.tiny import SIZES
from tuning.cli.app import app
from tuning.cli.predict import predict_file
from tuning.study import load_study
from tuning.sweep.train_local import train_once

CLASSES = {"1": "부정", "2": "중립", "3": "긍정 [강]"}
WORDS = {"1": "시간이 아까웠다", "2": "그저 그랬다", "3": "정말 재미있어요"}
KNOWN = " or ".join(SPECS)
EXACT = '첫 줄,\t"둘째"\n  줄 '
STUDY = f"""\
schema_version: 1
name: own
task: nsmc
data:
  train: train.csv
  text_column: 리뷰
  label_column: 별점
  id_column: null
  labels: {json.dumps(CLASSES, ensure_ascii=False)}
  max_bad_fraction: 0.05
  dev_fraction: 0.25
  max_length: 32
model:
  init: random
  tokenizer_vocab_size: 38
  config: {json.dumps(SIZES)}
train: {{epochs: 1, eval_percent: 50}}
objective: {{metric: eval/f1, mode: max}}
"""


def rows(count: int) -> list[list[str]]:
    return [[f"{WORDS[label]} {number}", label] for number in range(count) for label in CLASSES]


def write(path: Path, content: list[list[str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["리뷰", "별점"], *content])
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study, its data, a test file of 40 rows of which two have no text, and a `model`."""
    folder = tmp_path_factory.mktemp("own")
    write(folder / "train.csv", rows(40))
    test = rows(14)[:40]
    test[7][0], test[20][0], test[3][0] = "", "  ", EXACT
    write(folder / "test.csv", test)
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    heard: list[tuple[str, int, int | None]] = []
    said: list[str] = []
    train_once(
        load_study(folder / "study.yaml"),
        say=said.append,
        cache=folder / "cache",
        output=folder / "model",
        progress=lambda work, done, total=None: heard.append((work, done, total)),
    )
    (folder / "heard.json").write_text(json.dumps(heard), encoding="utf-8")
    assert any("eval/f1=" in line for line in said)
    return folder


def tuned(*arguments: object) -> Result:
    """What a command prints, in this process."""
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "120"})
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def predictions(work: Path, name: str = "out.jsonl") -> tuple[Result, list[dict[str, Any]]]:
    done = tuned("predict", work / "model", work / "test.csv", "--output", work / name)
    return done, [json.loads(line) for line in (work / name).read_text(encoding="utf-8").splitlines()]


def test_predict_takes_as_many_bad_rows_as_evaluate_and_keeps_the_text(work: Path) -> None:
    done, records = predictions(work)
    assert "38 predictions in" in done.stdout
    assert done.stderr.splitlines() == ["2 set aside:", "line 10: empty text", "line 23: empty text"]
    texts = [row[0] for row in csv.reader((work / "test.csv").open(encoding="utf-8", newline=""))][1:]
    assert [record["text"] for record in records] == [text for text in texts if text.strip()]
    assert records[3]["text"] == EXACT
    assert list(records[0]) == ["id", "text", "label", "name", *(f"probability_{name}" for name in CLASSES.values())]
    evaluated = json.loads(tuned("evaluate", work / "model", work / "test.csv", "--json").stdout)
    assert (evaluated["examples"], evaluated["set_aside"]) == (38, 2)


def test_a_model_that_gives_all_rows_one_class_is_told(work: Path) -> None:
    _, records = predictions(work)
    label = records[0]["label"]
    same = [record["text"] for record in records if record["label"] == label]
    other = next(each for each in CLASSES if each != label)
    file = write(work / "one-class.csv", [[text, (label, other)[number % 2]] for number, text in enumerate(same)])
    done = tuned("evaluate", work / "model", file, "--json")
    assert f"warning: the model answers `{CLASSES[label]}` to all {len(same)} rows" in done.stderr and len(same) > 1
    alike = write(work / "alike.csv", [[text, label] for text in same])
    assert "warning: " not in tuned("evaluate", work / "model", alike).stderr, "where all are of that class it is right"


def test_in_a_tsv_a_text_is_one_cell(work: Path) -> None:
    tuned("predict", work / "model", work / "test.csv", "--output", work / "out.tsv")
    lines = [line.split("\t") for line in (work / "out.tsv").read_text(encoding="utf-8").split("\n")][:-1]
    assert len(lines) == 39 and {len(line) for line in lines} == {7}
    assert lines[0][1] == "text" and lines[4][1] == '첫 줄, "둘째" 줄'


def test_all_formats_of_predictions_say_the_same(work: Path) -> None:
    _, wanted = predictions(work)
    for name in ("out.csv", "out.parquet"):
        tuned("predict", work / "model", work / "test.csv", "--output", work / name)
    assert (work / "out.csv").read_bytes().split(codecs.BOM_UTF8)[0] == b"", "Excel takes it for UTF-8"
    with open(work / "out.csv", encoding="utf-8-sig", newline="") as file:
        assert list(csv.DictReader(file)) == [{key: str(value) for key, value in row.items()} for row in wanted]
    assert parquet.read_table(work / "out.parquet").to_pylist() == wanted
    printed = tuned("predict", work / "model", work / "test.csv", "--output", "-")
    assert [json.loads(line) for line in printed.stdout.splitlines()] == wanted
    assert printed.stderr.splitlines()[0] == "38 predictions"
    with pytest.raises(InputError, match=r"unknown format `\.xml`.*end its name in \.jsonl, \.tsv, \.csv, \.parquet"):
        tuned("predict", work / "model", work / "test.csv", "--output", work / "out.xml")


@pytest.mark.parametrize(
    "given",
    [
        f"{WORDS['3']}\n{WORDS['1']}\n",
        f"별점\t리뷰\n1\t{WORDS['3']}\n2\t{WORDS['1']}\n",
        "".join(json.dumps({"리뷰": WORDS[label]}, ensure_ascii=False) + "\n" for label in "31"),
    ],
)
def test_standard_input_is_a_text_a_line_a_table_or_json_lines(work: Path, given: str) -> None:
    done = CliRunner().invoke(app, ["predict", str(work / "model"), "-", "--output", "-"], input=given.encode())
    assert done.exit_code == 0
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [WORDS["3"], WORDS["1"]]


def test_other_columns_are_kept_under_their_names_or_as_input(work: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.tsv"
    lines = ["label\t리뷰\t날짜", "x\t좋다\t5월", "y\t\t6월", "z\t별로\t7월", *["w\t좋다\t8월"] * 20]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tuned("predict", work / "model", table, "--output", tmp_path / "out.jsonl", "--keep-columns")
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [(row["input_label"], row["text"], row["날짜"]) for row in records[:3]]
    assert kept == [("x", "좋다", "5월"), ("z", "별로", "7월"), ("w", "좋다", "8월")]
    pandas.DataFrame({"리뷰": ["좋다"] * 3, "n": [1, 2, 3]}).to_parquet(tmp_path / "new.parquet")
    tuned("predict", work / "model", tmp_path / "new.parquet", "--output", tmp_path / "out.parquet", "--keep-columns")
    assert parquet.read_table(tmp_path / "out.parquet").column("n").to_pylist() == [1, 2, 3]


def test_the_likeliest_labels_and_those_that_are_likely_enough(work: Path) -> None:
    _, wanted = predictions(work)
    out, sure = work / "top.jsonl", 0
    likely = np.median([max(row[f"probability_{name}"] for name in CLASSES.values()) for row in wanted])
    tuned("predict", work / "model", work / "test.csv", "--output", out, "--top-k", 2, "--threshold", likely)
    for line, full in zip(out.read_text(encoding="utf-8").splitlines(), wanted, strict=True):
        row = json.loads(line)
        probable = sorted((full[f"probability_{name}"] for name in CLASSES.values()), reverse=True)
        assert [each["probability"] for each in row["top"]] == probable[:2] and "probability_중립" not in row
        assert row["top"][0]["name"] == full["name"]
        assert (row["label"], row["name"]) == ((full["label"], full["name"]) if probable[0] >= likely else (None, None))
        sure += probable[0] >= likely
    assert 0 < sure < len(wanted)


def test_a_prediction_that_was_cut_off_goes_on(work: Path, tmp_path: Path) -> None:
    table, out = write(tmp_path / "many.csv", rows(4_500)), tmp_path / "out.jsonl"
    source = Source.of(table)
    heard: list[tuple[int, int | None]] = []

    def stop_in_the_second_part(work: str, done: int, total: int | None = None, /) -> None:
        if work.startswith("predicting"):
            heard.append((done, total))
            if done > 11_000:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_file(work / "model", source, out, progress=stop_in_the_second_part)
    assert heard == sorted(heard) and heard[-1][1] == 13_501, "the lines of the file, its header too"
    assert [part.name for part in sorted((tmp_path / "out.jsonl.part").iterdir())] == ["000000", "state.json"]
    assert not out.exists()
    found = predict_file(work / "model", source, out)
    assert (found.rows, found.resumed) == (13_500, 10_000) and sorted(tmp_path.iterdir()) == [table, out]
    whole = predict_file(work / "model", source, tmp_path / "whole.jsonl")
    assert whole.resumed == 0 and (tmp_path / "whole.jsonl").read_bytes() == out.read_bytes()

    with pytest.raises(KeyboardInterrupt):
        predict_file(work / "model", source, out, progress=stop_in_the_second_part)
    write(table, rows(4_000))
    assert predict_file(work / "model", source, out).resumed == 0, "other rows are nothing to go on with"
    (tmp_path / "out.csv.part").mkdir()
    for torn in (None, "{"):
        if torn:
            (tmp_path / "out.csv.part" / "state.json").write_text(torn)
        with pytest.raises(InputError, match="is no folder of a file that was cut off"):
            predict_file(work / "model", source, tmp_path / "out.csv")


@pytest.mark.parametrize("more", [["predict", "--output", "out.jsonl"], ["evaluate"]])
def test_more_bad_rows_than_the_study_allows_are_refused(work: Path, tmp_path: Path, more: list[str]) -> None:
    bad = write(tmp_path / "bad.csv", [["", "1"], ["좋다", "3"]])
    command, *options = more
    with pytest.raises(InputError, match=r"1 of 2 rows are bad \(50\.00%, at most 5\.00% may be\): line 2: empty text"):
        tuned(command, work / "model", bad, *options)


def test_evaluate_has_the_scores_of_each_class(work: Path) -> None:
    """They are those of the labels that `predict` gives."""
    _, records = predictions(work)
    true = [label for text, label in csv.reader((work / "test.csv").open(encoding="utf-8", newline="")) if text.strip()]
    pairs = Counter(zip(true[1:], (record["label"] for record in records), strict=True))
    result = json.loads(tuned("evaluate", work / "model", work / "test.csv", "--json").stdout)
    assert result["confusion_matrix"] == [[pairs[label, guess] for guess in CLASSES] for label in CLASSES]
    for label, name in CLASSES.items():
        there = sum(pairs[label, guess] for guess in CLASSES)
        taken = sum(pairs[other, label] for other in CLASSES)
        f1 = 2 * pairs[label, label] / (there + taken)
        assert result["classes"][name]["f1"] == pytest.approx(f1) and result["classes"][name]["support"] == there
    assert result["f1"] == pytest.approx(sum(scores["f1"] for scores in result["classes"].values()) / 3)
    shown = tuned("evaluate", work / "model", work / "test.csv").stdout
    assert "precision" in shown and "true \\ predicted" in shown and f"f1                   {result['f1']:.6f}" in shown
    assert [line.split()[-3:] for line in shown.splitlines()[-3:]] == [
        [str(count) for count in counts] for counts in result["confusion_matrix"]
    ]


def test_evaluate_says_where_there_is_no_space_for_features(
    work: Path, tmp_path: Path, mount_small_disk: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount_small_disk(tmp_path / "disk", 16)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with pytest.raises(InputError, match=r"disk: no space is left; set TMPDIR"):
        tuned("evaluate", work / "model", work / "test.csv")
    assert not list(disk.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with pytest.raises(InputError, match=r"TMPDIR: No usable temporary directory found"):
        tuned("evaluate", work / "model", work / "test.csv")


def test_describe_takes_columns_and_labels_of_a_model_or_a_study(work: Path) -> None:
    by_model = json.loads(tuned("describe", work / "test.csv", "--model", work / "model", "--json").stdout)
    by_study = json.loads(tuned("describe", work / "test.csv", "--study", work / "study.yaml", "--json").stdout)
    leaks = {
        "dev": {"text": {"rows": 30, "exact": 0, "near": 0}},
        "file": {"text": {"rows": 38, "exact": 29, "near": 29}},
    }
    assert by_model | {"leaks": leaks} == by_study
    assert by_model["classes"] == {"부정": 14, "중립": 12, "긍정 [강]": 12} and by_model["set_aside"] == 2
    shown = tuned("describe", work / "test.csv", "--model", work / "model").stdout
    assert [line.split() for line in shown.splitlines()][:4] == [
        ["examples", "38"], ["classes"], ["부정", "14"], ["중립", "12"]
    ]  # fmt: skip
    assert "line 10: empty text" in shown


def test_describe_looks_at_the_texts(work: Path) -> None:
    found = json.loads(tuned("describe", work / "test.csv", "--model", work / "model", "--json").stdout)
    told = found["texts"]["text"]
    assert told["rows"] == found["examples"] == 38
    assert told["duplicates"] == {"exact": 0, "near": 0}
    assert told["characters"]["max"] == len(EXACT) and found["tokens"]["max"] == told["pieces"]["max"]
    assert told["longer_than"].keys() == {"32", "64", "128", "256", "512"}
    assert "," in told["unknown"]["characters"]
    assert [sample["text"] for sample in told["samples"]] == [
        "시간이 아까웠다 0",
        "그저 그랬다 6",
        "시간이 아까웠다 13",
    ]


def test_a_page_of_a_description_shows_labels_as_they_are_and_needs_no_other_file(work: Path, tmp_path: Path) -> None:
    need_browser()
    names = dict(CLASSES) | {"1": "</script><b>부정 & 나쁨</b>"}
    study = STUDY.replace(json.dumps(CLASSES, ensure_ascii=False), json.dumps(names, ensure_ascii=False))
    (work / "names.yaml").write_text(study, encoding="utf-8")
    page = tmp_path / "page.html"
    tuned("describe", work / "test.csv", "--study", work / "names.yaml", "--html", page)
    written = page.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]* (?:src|href)=", written)
    html = page_html(page.as_uri(), budget_ms=5000)
    assert "<td>  &lt;/script&gt;&lt;b&gt;부정 &amp; 나쁨&lt;/b&gt;</td><td>14</td>" in html
    drawn = [re.sub("<[^>]*>", "", text) for text in re.findall(r"<text[^>]*>(.*?)</text>", html, re.DOTALL)]
    for shown in (
        "classes",
        "characters of a text",
        "pieces of a text",
        "&lt;/script&gt;&lt;b&gt;부정 &amp; 나쁨&lt;/b&gt;",
    ):
        assert shown in drawn


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing says how to read the file; give --study, or an exported --model"),
        (["--model", "model", "--task", "korquad"], "is of the task `nsmc`, not `korquad`; leave it out"),
        (["--model", "empty", "--task", "nmsc"], f"there is no task `nmsc`; use {KNOWN}"),
        (["--model", "empty"], f"the task is not known; use {KNOWN}, or give --study"),
        (["--study", "nowhere.yaml"], "the study file cannot be read"),
    ],
    ids=str,
)
def test_describe_says_what_it_lacks(
    work: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    (work / "empty").mkdir(exist_ok=True)
    monkeypatch.chdir(work)
    with pytest.raises(InputError) as error:
        tuned("describe", "test.csv", *options)
    assert message in str(error.value)


def test_a_run_tells_how_far_it_has_come(work: Path) -> None:
    heard = json.loads((work / "heard.json").read_text(encoding="utf-8"))
    assert [done for kind, done, _ in heard if kind == "reading train.csv"] == [0, 120, 120]
    assert [(done, total) for kind, done, total in heard if kind == "training"] == [(1, 3), (2, 3), (3, 3)]
    assert sum(done == total == 30 for kind, done, total in heard if kind == "running the model") == 2


def test_describe_infers_the_labels_of_a_file_that_no_study_names(work: Path, tmp_path: Path) -> None:
    file = tmp_path / "topics.tsv"
    rows = [f"{WORDS[str(1 + n % 3)]} {n}\t{['정치', '경제', '사회'][n % 3]}" for n in range(9)]
    file.write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    model = tmp_path / "tokenizer"
    load_pretrained(work / "model").task.tokenizer.save_pretrained(model)
    found = json.loads(tuned("describe", file, "--task", "classification", "--model", model, "--json").stdout)
    assert found["classes"] == {"경제": 3, "사회": 3, "정치": 3} and found["texts"]["text"]["rows"] == 9


def test_compare_refuses_models_that_do_not_go_together(work: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one model compares with nothing; give a second one"):
        tuned("compare", work / "model")
    with pytest.raises(InputError, match="a model is given twice"):
        tuned("compare", work / "model", work / "model")
    shutil.copytree(work / "model", tmp_path / "other")
    with pytest.raises(InputError, match=r"there is no sweep among these.*give --data FILE"):
        tuned("compare", work / "model", tmp_path / "other")
    config = json.loads((tmp_path / "other" / TRAIN_CONFIG).read_text(encoding="utf-8"))
    config["data"]["labels"]["3"] = "최고"
    (tmp_path / "other" / TRAIN_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"its labels are not those of .*model"):
        tuned("compare", work / "model", tmp_path / "other", "--data", work / "test.csv")


def test_compare_cannot_tell_a_model_from_its_copy(work: Path, tmp_path: Path) -> None:
    """By a metric that is no share of right answers: without McNemar's test, and not in points."""
    shutil.copytree(work / "model", tmp_path / "copy")
    asked = ("compare", work / "model", tmp_path / "copy", "--data", work / "test.csv")
    found = json.loads(tuned(*asked, "--json").stdout)
    (pair,) = found["pairs"]
    assert (pair["outcome"], pair["p_values"]) == ("tie", {"paired_t": 1.0})
    assert pair["sentence"].endswith("cannot be told apart (95% interval 0 to 0 for the difference, p 1)")
    assert found["models"][0]["value"] == found["models"][0]["metrics"]["f1"]
    again = json.loads(tuned(*asked, "--json").stdout)
    assert again["models"][1]["earlier_readings"] == found["models"][1]["earlier_readings"] + 1
    assert pair["sentence"] in tuned(*asked).stdout
