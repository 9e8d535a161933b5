"""Names of any characters on their way out: tables, model cards, study files, and what a terminal is sent."""

from __future__ import annotations

import csv
import io
import json
import logging
import unicodedata
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from typer.testing import CliRunner

from kobert_core.errors import InputError
from kobert_core.io.record_files import as_tsv
from kobert_core.tasks.text_classification.config import NsmcData
from kobert_core.texts import folded, printable
from search_spaces.distributions import Space
from tests.fixtures.commands import ROOT
from tuning.cli.app import app
from tuning.cli.display import Display
from tuning.cli.terminal import PrintableFormatter, echo
from tuning.cluster.jobs import job_id
from tuning.study import StudyConfig, dump_study, load_study
from tuning.sweep.export import code
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable, as_csv

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).filter(
    str.strip
)
NAMES = st.lists(TEXT, min_size=2, max_size=5, unique=True)
HOSTILE = "\x1b[31m\x1b]0;title\x07\x9b2J\r\u202e[red]글"


def steers(text: str) -> bool:
    """Whether a terminal would do more than show it."""
    return any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") and letter not in "\n\t" for letter in text) or any(
        unicodedata.bidirectional(letter) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
        for letter in text
    )


@given(NAMES)
@example(["부정\n", "긍정\t(좋음)"])
@example(["a\tb", "a b", "a b (2)", "a\nb"])
def test_every_class_has_a_column_of_its_own_in_a_table(names: list[str]) -> None:
    record = {"id": "1", "name": names[0]} | {f"probability_{name}": number for number, name in enumerate(names)}
    lines = as_tsv([record, record]).split("\n")
    header, *rows = [line.split("\t") for line in lines[:-1]]
    assert lines[-1] == "" and len(rows) == 2
    assert len(header) == len(set(header)) == len(rows[0]) == len(names) + 2
    assert rows[0][2:] == [str(number) for number in range(len(names))]
    for name, column in zip(names, header[2:], strict=True):
        assert column.startswith(" ".join(f"probability_{name}".split()))


@given(TEXT)
@example("`a``b`|<b>[x](y)*_\\")
@example("`")
def test_a_model_card_shows_a_name_as_it_is(name: str) -> None:
    wanted = printable(" ".join(name.split()))
    for card in (f"# {code(name)}, trial 3", f"Trained on {code(name)}, alone"):
        (shown,) = [each for token in MarkdownIt().parse(card) for each in token.children or () if each.tag == "code"]
        assert shown.content == wanted


@given(TEXT, TEXT)
def test_a_reason_of_any_characters_stays_in_its_cell(reason: str, last: str) -> None:
    record = TrialRecord(0, "FAILED", {"optim.backbone_lr": 0.1}, reason=f"{reason}\nValueError: {last}")
    header, row = csv.reader(io.StringIO(as_csv([record]), newline=""))
    assert len(header) == len(row) and not steers(row[-1])


@pytest.fixture(scope="module")
def quickstart() -> StudyConfig:
    """With nothing to search: it is read in no time."""
    study = load_study(ROOT / "search_spaces" / "quickstart.yaml")
    return study.model_copy(update={"space": Space({}), "search": study.search.model_copy(update={"points": ()})})


@settings(deadline=None, max_examples=50)
@given(labels=NAMES, names=st.lists(TEXT, min_size=5, max_size=5, unique_by=folded))
@example(labels=["<<", "=", "null", "2\x85"], names=["\u2028a", "b\x85", "1e5", "c\r\nd", "true"])
def test_a_sweep_remembers_labels_and_names_of_any_characters(
    quickstart: StudyConfig, tmp_path_factory: pytest.TempPathFactory, labels: list[str], names: list[str]
) -> None:
    data = quickstart.data.model_copy(update={"labels": dict(zip(labels, names, strict=False))})
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    dump_study(quickstart.model_copy(update={"data": data}), path)
    again = load_study(path).data
    assert isinstance(again, NsmcData) and isinstance(data, NsmcData)
    assert list(again.labels.items()) == list(data.labels.items())


@given(st.text())
@example(HOSTILE)
def test_what_is_printable_steers_no_terminal_and_json_keeps_its_values(text: str) -> None:
    assert not steers(printable(text))
    written = printable(json.dumps({"a": text}, ensure_ascii=False))
    assert not steers(written) and json.loads(written) == {"a": text}


def test_a_job_has_an_id_that_addresses_can_hold() -> None:
    found = job_id("영화_1.2 100%?#[red]")
    assert found.startswith("영화_1.2-100----red--")
    assert "%" not in urllib.parse.quote(found.removeprefix("영화"), safe="")


def test_korean_emoji_and_blanks_are_printable() -> None:
    text = "한국어 中文\u3000👨\u200d👩\u200d👧 e\u0301\tb\n"
    assert printable(text) == text


def test_nothing_that_a_user_named_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    echo(HOSTILE)
    Display(Console(force_terminal=True)).say(HOSTILE)
    record = logging.LogRecord("a", logging.WARNING, "", 1, "%s", (HOSTILE,), None)
    print(PrintableFormatter("%(message)s").format(record))
    print(InputError(HOSTILE, where=HOSTILE, fix=HOSTILE))
    shown = capsys.readouterr().out
    assert not steers(shown) and shown.count("[red]글") == 6


def test_a_reason_and_a_log_are_shown_without_what_steers_the_terminal(tmp_path: Path, quickstart: StudyConfig) -> None:
    dump_study(quickstart, tmp_path / "study.yaml")
    TrialTable(tmp_path, quickstart.objective).put(TrialRecord(0, "FAILED", {}, reason=f"ValueError: {HOSTILE}"))
    log = tmp_path / "trials" / "0000" / "log.txt"
    log.parent.mkdir(parents=True)
    said = [CliRunner().invoke(app, command) for command in (["list", str(tmp_path)], ["logs", str(tmp_path), "0"])]
    log.write_text(f"하나\n{HOSTILE}\n둘\n", "utf-8")
    said.append(CliRunner().invoke(app, ["logs", str(tmp_path), "0"]))
    for done in said:
        assert done.exit_code == 0 and "글" in done.output and not steers(done.output)
    assert said[-1].output.startswith("하나\n") and said[-1].output.endswith("둘\n")
