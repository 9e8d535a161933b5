"""The report of sweeps that no machine needs to run: what failed, few trials, hostile texts, answers of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import rankdata

from kobert_core.config import Objective
from kobert_core.errors import InputError
from tests.fixtures.browser import DARK, need_browser, need_pdftotext, paper_of, printed_text
from tests.fixtures.commands import ROOT
from tests.fixtures.report_page import ReportPage
from tuning.report import write_report
from tuning.report.answers import (
    by_answer_length,
    by_question_word,
    confusion_counts,
    in_words,
    kind_of,
    mistakes,
    question_word,
    scores_by_label,
    text_of,
)
from tuning.report.figures import best_so_far, lanes_of
from tuning.report.search import distributions_of
from tuning.report.stopping import look_at_rungs, rungs_of, seconds_saved, spearman
from tuning.report.sweep_data import read_sweep
from tuning.study import SchedulerConfig, dump_study, load_study
from tuning.sweep_dir.layout import PLAN, REVIEW, STUDY, WINNER
from tuning.sweep_dir.reviews import read_review, write_review
from tuning.sweep_dir.trial_status import TrialState
from tuning.sweep_dir.trial_table import TrialRecord, TrialTable

ACCURACY = Objective(metric="eval/accuracy", mode="max")
HOSTILE = "</script><script>alert(1)</script><b>굵게</b> & 'quoted' \x1b[31mred"


def trial(number: int, *curve: float, seconds: float = 10.0, started: float = 0.0, **more: Any) -> TrialRecord:
    """A trial with a value at every tenth of its steps; one with ten of them is complete."""
    whole = len(curve) == 10
    record = TrialRecord(
        number,
        TrialState.COMPLETE if whole else TrialState.PRUNED,
        {"optim.backbone_lr": 1e-3 * (1 + number % 3), "optim.classifier_lr": 1e-3, "model.dropout": 0.1},
        progress=10 * len(curve),
        curve={10 * (place + 1): value for place, value in enumerate(curve)},
        value=max(curve, default=None),
        metrics={"eval/accuracy": max(curve)} if curve else {},
        started=started or 1000.0 + number,
        seconds=seconds,
    )
    for name, value in more.items():
        setattr(record, name, value)
    return record


def rising(end: float) -> list[float]:
    return [end * (place + 1) / 10 for place in range(10)]


def sweep_of(folder: Path, records: list[TrialRecord], *overrides: str, review: Any = None) -> Path:
    study = load_study(ROOT / "search_spaces" / "quickstart.yaml", overrides)
    folder.mkdir()
    dump_study(study, folder / STUDY)
    table = TrialTable.of(folder, study)
    for record in records:
        table.put(record)
    if review is not None:
        winner = table.winner()
        assert winner is not None
        result = {"winner": {"trial": winner.trial}, "test": {}, "states": table.states(), "notes": [f"{HOSTILE} note"]}
        (folder / WINNER).write_text(json.dumps(result), encoding="utf-8")
        write_review(folder / REVIEW, review)
    return folder


def page_of(sweep: Path) -> tuple[str, ReportPage]:
    text = write_report(sweep).read_text(encoding="utf-8")
    return text, ReportPage(text)


def answer(number: int, expected: Any, predicted: Any, confidence: float | None, score: float, **more: Any) -> Any:
    return {
        "id": str(number),
        **({} if "question" in more else {"text": f"글 {number}"}),
        "expected": expected,
        "predicted": predicted,
        "confidence": confidence,
        "score": score,
    } | more


ENTITY, OTHER = (
    {"start": 0, "end": 2, "label": "PS", "text": "세종"},
    {"start": 3, "end": 5, "label": "LC", "text": "서울"},
)
QUESTIONS = [
    answer(
        1, ["세종"], "세종", 0.9, 1.0, question="누가 만들었나?", context="세종이 만들었다", exact_match=1.0, group=0
    ),
    answer(2, ["1446년 9월"], "1446년", 0.4, 0.7, question="언제인가?", context="1446년 9월", exact_match=0.0, group=0),
    answer(3, [], "서울", 0.8, 0.0, question="어디인가?", context="서울", exact_match=0.0, group=1),
]
ANSWERS = {
    "class": [answer(1, "부정", "긍정", 0.9, 0.0, text=HOSTILE), answer(2, "긍정", "긍정", 0.8, 1.0)],
    "labels": [answer(1, [], [], 0.9, 1.0), answer(2, ["욕설", "차별"], ["욕설"], 0.6, 0.0, pair="둘째")],
    "number": [answer(1, 1.5, 2.0, None, -0.5), answer(2, 4.0, 4.0, None, 0.0)],
    "entities": [answer(1, [ENTITY], [OTHER], 0.7, 0.0), answer(2, [ENTITY], [ENTITY], 0.9, 1.0)],
    "answer": QUESTIONS,
}


def test_the_line_of_the_best_takes_in_stopped_trials_where_their_values_compare(tmp_path: Path) -> None:
    trials = [trial(0, 0.3), trial(1, *rising(0.5)), trial(2, 0.6), trial(3, *rising(0.55)), trial(4, *rising(0.7))]
    steps = best_so_far(read_sweep(sweep_of(tmp_path / "one", trials)))[1]
    assert steps == [(10.0, 0.3), (20.0, 0.5), (30.0, 0.6), (50.0, 0.7)]
    further = "objective=[{metric: eval/accuracy}, {metric: eval/loss, below: 9}]"
    steps = best_so_far(read_sweep(sweep_of(tmp_path / "two", trials, "confirm=null", further)))[1]
    assert steps == [(20.0, 0.5), (40.0, 0.55), (50.0, 0.7)]
    goes_on = trial(1, 0.8, state=TrialState.INTERRUPTED)
    steps = best_so_far(read_sweep(sweep_of(tmp_path / "three", [trial(0, *rising(0.5)), goes_on])))[1]
    assert steps == [(10.0, 0.5), (20.0, 0.8)]


def test_a_winner_that_was_stopped_is_made_again_up_to_there(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path / "one", [trial(0, *rising(0.5)), trial(1, 0.6, 0.7)])
    text, page = page_of(sweep)
    assert "Trial 1, trained again up to 20%, and compared with what was recorded:" in text
    assert f"kobert-tune reproduce {sweep} --trial 1" in text and "Make the winner again" in page.headings


@pytest.mark.parametrize("kind", list(ANSWERS))
def test_answers_of_every_kind_have_their_tables(tmp_path: Path, kind: str) -> None:
    review = ANSWERS[kind]
    assert kind_of(review) == kind
    text, page = page_of(sweep_of(tmp_path / "s", [trial(0, *rising(0.8))], review=review))
    tables = {
        "class": "Confusion matrix",
        "labels": "Scores by label",
        "number": "Answers worth reading",
        "entities": "Scores by kind of entity",
        "answer": "Exact match and F1 by the word that asks",
    }
    assert page.table(tables[kind]).rows
    worth = page.table("Answers worth reading")
    assert worth.column("id") == [record["id"] for record in mistakes_of(review)]
    assert len(text.encode()) < 3_000_000


def mistakes_of(review: Any) -> list[Any]:
    return [mistake.worst for mistake in mistakes([review])]


def test_texts_of_users_are_shown_and_never_run(tmp_path: Path) -> None:
    text, page = page_of(sweep_of(tmp_path / "s", [trial(0, *rising(0.8))], review=ANSWERS["class"]))
    assert "alert(1)</script>" not in text and "\x1b" not in text
    assert page.table("Answers worth reading").column("text")[0].startswith("</script><script>alert(1)")
    assert "default-src 'none'" in text
    assert any(told.startswith("</script><script>") for told in page.paragraphs)


def test_failures_have_their_reasons_and_the_seconds_that_they_cost(tmp_path: Path) -> None:
    failed = trial(1, 0.1, seconds=7.5, state=TrialState.FAILED, reason=f"Traceback\n  line\nNonFiniteError: {HOSTILE}")
    _, page = page_of(sweep_of(tmp_path / "s", [trial(0, *rising(0.8)), failed]))
    table = page.table("Trials that failed")
    assert table.column("reason") == ["NonFiniteError: </script><script>alert(1)</script><b>굵게</b> & 'quoted' red"]
    assert table.column("took") == ["7.5"]
    facts = dict(page.table("What became of the time").rows[1:])
    assert facts["lost to failures"] == "7.5"


def test_a_plan_stands_beside_what_happened(tmp_path: Path) -> None:
    records = [trial(0, *rising(0.7), seconds=12.0), trial(1, 0.5), trial(2, *rising(0.6), seconds=18.0)]
    sweep = sweep_of(tmp_path / "s", records)
    groups = [{"groups": count, "seconds": 100.0 / count, "search": 60.0 / count} for count in (1, 2)]
    plan = {"here": 2, "schedules": groups, "trial": 20.0, "stopped": 1.4}
    (sweep / PLAN).write_text(json.dumps(plan), encoding="utf-8")
    table = page_of(sweep)[1].table("The plan")
    assert table.column("planned") == ["50.0", "30.0", "20.0", "1"]
    assert table.column("took")[2:] == ["15.0", "1"]


def test_a_password_in_a_reason_is_not_handed_on(tmp_path: Path) -> None:
    reason = "Traceback\n  of https://me:hunter2@host/data\nOSError: https://me:hunter2@host/data"
    text, _ = page_of(sweep_of(tmp_path / "s", [trial(0, state=TrialState.FAILED, reason=reason, seconds=1.0)]))
    assert "hunter2" not in text and "OSError" in text


def test_a_sweep_whose_trials_all_failed_has_a_report(tmp_path: Path) -> None:
    failed = [trial(number, state=TrialState.FAILED, reason="no", seconds=1.0) for number in range(3)]
    _, page = page_of(sweep_of(tmp_path / "s", failed))
    assert page.paragraphs[1] == "No trial has come to a model."
    assert "Make the winner again" not in page.headings


def test_a_sweep_without_trials_has_none_yet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trial of this sweep has begun"):
        write_report(sweep_of(tmp_path / "s", []))


def test_trials_are_compared_where_enough_of_them_came_and_it_says_so(tmp_path: Path) -> None:
    stopped = [trial(number, 0.1 * number, 0.11 * number) for number in range(2, 12)]
    records = [trial(0, *rising(0.8)), trial(1, *rising(0.9)), *stopped]
    overrides = ("scheduler.grace_percent=20", "scheduler.reduction_factor=2")
    _, page = page_of(sweep_of(tmp_path / "s", records, *overrides))
    assert "12 trials are compared at 20% of their steps." in page.paragraphs
    assert any(told.startswith("12 trials are few") for told in page.paragraphs)
    rungs = page.table("The value at each rung")
    assert rungs.column("rung") == ["20%", "40%", "80%"]
    assert rungs.column("stopped there") == ["10", "0", "0"]
    assert rungs.column("place of the best then")[0].endswith(" of 12")


def test_the_page_of_very_many_trials_stays_small(tmp_path: Path) -> None:
    study = load_study(ROOT / "search_spaces" / "quickstart.yaml")
    sweep = sweep_of(tmp_path / "s", [])
    table = TrialTable(sweep, study.objective)
    for number in range(600):
        table._records[number] = trial(number, *rising(0.5 + number / 2000))
    for number, record in table._records.items():
        record.values = {"optim.backbone_lr": 7e-4 + number * 1e-6, "model.dropout": (number * 7 % 600) / 1200}
    table.write()
    text, page = page_of(sweep)
    assert len(text.encode()) < 3_000_000
    assert "600 trials are compared at their ends." in page.paragraphs and "100 of the 600 trials" in text
    assert len(page.table("The first 300 trials").rows) == 1 + 300


def test_several_objectives_have_a_section(tmp_path: Path) -> None:
    """A Pareto front of two; with a constraint alone, what it bounds."""

    def record_of(trial: int, cost: dict[str, float]) -> TrialRecord:
        more: dict[str, Any] = {"value": 0.5 + 0.1 * trial, "curve": {100: 0.5}, "metrics": cost, "seconds": 2.0}
        return TrialRecord(trial, TrialState.COMPLETE, {}, 100, **more)

    latency, bound = "{metric: cost/latency_ms}", "{metric: cost/parameters, below: 150}"
    for number, further in enumerate((f"{latency}, {bound}", bound)):
        costs = [{"cost/latency_ms": 1.0 + trial, "cost/parameters": 100.0 * trial} for trial in range(3)]
        records = [record_of(trial, cost) for trial, cost in enumerate(costs)]
        objective = f"objective=[{{metric: eval/accuracy}}, {further}]"
        sweep = sweep_of(tmp_path / f"{number}", records, objective)
        text, page = page_of(sweep)
        assert (page.headings[1] == "Objectives and constraints" and '"Best Trial' in text) or "Feasible" in text
        assert page.table("Trials that cannot win").rows[1:] == [
            ["trial 2, complete", "cost/parameters below 150 (200)"]
        ]
        fronts = [found for found in page.tables if found.caption.startswith("The Pareto front")]
        assert [found.column("") for found in fronts] == ([["trial 1", "trial 0"]] if not number else [])


def test_on_paper_nothing_is_cut_off_or_dark(tmp_path: Path) -> None:
    """Printed where the system is dark, with more columns than fit on a screen."""
    need_browser()
    need_pdftotext()
    names = [f"optim.parameter_{letter}" for letter in "abcdefghijkl"]
    records = [
        TrialRecord(number, TrialState.COMPLETE, dict.fromkeys(names, 0.1234 + number), 100, value=0.5 + number / 10)
        for number in range(3)
    ]
    for record in records:
        record.curve, record.metrics, record.seconds = {100: record.value or 0.0}, {"eval/accuracy": 0.5}, 2.0
    text, page = page_of(sweep_of(tmp_path / "wide", records, review=ANSWERS["class"]))
    assert "@media print" in text
    pdf = tmp_path / "page.pdf"
    lines = printed_text((tmp_path / "wide" / "report.html").as_uri(), pdf, DARK, budget_ms=10_000)
    printed = "\n".join(line for each in lines for line in each)
    assert [heading for heading in page.headings if heading not in printed] == []
    row = next(line.split() for each in lines for line in each if line.strip().startswith("2 ") and "2.1234" in line)
    assert row.count("2.1234") == len(names), "all columns are on the paper"
    for each in lines:
        assert not any(heading == each[-1].strip() for heading in page.headings), "a heading without what it heads"
    paper = paper_of(pdf)
    assert paper[:, 0].min() == 255 and paper.mean() > 200


def test_rungs_are_those_of_the_scheduler() -> None:
    assert rungs_of(SchedulerConfig(name="asha", grace_percent=10, reduction_factor=3), []) == [10, 30, 90]
    assert rungs_of(SchedulerConfig(name="hyperband", grace_percent=50, reduction_factor=2), []) == [50]
    assert rungs_of(SchedulerConfig(name="none"), [trial(0, *rising(0.5))]) == list(range(10, 100, 10))
    many = trial(0, curve={percent: 0.1 for percent in range(1, 100)})
    assert len(rungs_of(SchedulerConfig(name="median"), [many])) <= 12


def test_the_rank_correlation_is_over_those_that_ran_to_their_ends() -> None:
    early, ends = [0.3, 0.1, 0.2, 0.5], [0.7, 0.5, 0.8, 0.9]
    records = [
        trial(number, first, *[first] * 8, end) for number, (first, end) in enumerate(zip(early, ends, strict=True))
    ]
    stopped = trial(4, 0.05)
    (rung,) = look_at_rungs([*records, stopped], [10], ACCURACY, records[3])
    pearson = ((rankdata(early) - 2.5) * (rankdata(ends) - 2.5)).sum() / 5
    assert rung.correlation == pytest.approx(pearson) and (rung.reached, rung.stopped, rung.ended) == (5, 1, 4)
    assert rung.place_of_winner == 1
    assert spearman([1, 2], [1, 2]) is None and spearman([1, 1, 1], [1, 2, 3]) is None


def test_what_stopping_saved_is_the_rest_at_the_same_pace() -> None:
    assert seconds_saved([trial(0, *rising(0.5)), trial(1, 0.1, 0.2, seconds=4.0)]) == pytest.approx(16.0)


def test_trials_lie_in_as_many_lanes_as_ran_at_once() -> None:
    records = [
        trial(0, 0.1, started=100.0, seconds=10.0),
        trial(1, 0.1, started=101.0, seconds=4.0),
        trial(2, 0.1, started=105.5, seconds=10.0),
        trial(3, 0.1, started=110.2, seconds=1.0),
    ]
    lanes = lanes_of(records)
    assert lanes.of == {0: 0, 1: 1, 2: 1, 3: 0} and lanes.count == 2
    assert (lanes.begin, lanes.end) == (100.0, 115.5)


def test_the_space_is_optunas() -> None:
    found = distributions_of(load_study(ROOT / "search_spaces" / "quickstart.yaml").space)
    assert str(found["optim.backbone_lr"]).startswith("FloatDistribution") and "log=True" in str(
        found["optim.backbone_lr"]
    )


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("한글을 만든 사람은 누구인가?", "누구 (who)"),
        ("몇 년에 태어났나?", "언제 (when)"),
        ("어느 나라에서 왔나?", "어디 (where)"),
        ("어느 것이 큰가?", "어떤, 어느 (which)"),
        ("왜 그랬는가?", "왜 (why)"),
        ("인구는 몇 명인가?", "몇, 얼마 (how many)"),
        ("이 곡의 이름은 무엇인가?", "무엇 (what)"),
        ("그 곡의 이름은?", "another"),
    ],
)
def test_questions_are_of_the_kind_of_their_word(question: str, kind: str) -> None:
    assert question_word(question) == kind


def test_groups_of_questions_have_their_means() -> None:
    words = {group.name: group for group in by_question_word([QUESTIONS, QUESTIONS])}
    assert words["누구 (who)"].questions == 2 and words["누구 (who)"].f1 == 100.0
    assert words["언제 (when)"].f1 == pytest.approx(70.0) and words["언제 (when)"].exact_match == 0.0
    assert [group.name for group in by_answer_length([QUESTIONS])] == ["no answer", "1 to 2", "6 to 10"]


def test_scores_count_what_is_expected_and_what_is_predicted() -> None:
    scores = {each.name: each for each in scores_by_label([ANSWERS["entities"]])}
    assert (scores["PS"].precision, scores["PS"].recall, scores["PS"].support) == (1.0, 0.5, 2)
    assert (scores["LC"].precision, scores["LC"].f1, scores["LC"].support) == (0.0, 0.0, 0)
    assert confusion_counts([ANSWERS["class"]], ["부정", "긍정", "중립"]) == (["부정", "긍정"], [[0, 1], [0, 1]])


def test_what_all_seeds_get_wrong_comes_first() -> None:
    first = [answer(1, "가", "나", 0.6, 0.0), answer(2, "가", "나", 0.99, 0.0), answer(3, "가", "가", 0.9, 1.0)]
    second = [answer(1, "가", "나", 0.7, 0.0), answer(2, "가", "가", 0.9, 1.0), answer(3, "가", "가", 0.9, 1.0)]
    found = mistakes([first, second])
    assert [(each.worst["id"], each.wrong) for each in found] == [("1", 2), ("2", 1)]
    assert found[0].worst["confidence"] == 0.7
    assert [each.worst["id"] for each in mistakes([first, second[1:]])] == ["2"]


def test_long_texts_are_cut_around_the_answer() -> None:
    record = answer(1, ["정답"], "", 0.5, 0.0, question="무엇?", context="앞 " * 200 + "정답" + " 뒤" * 200)
    assert "정답" in text_of(record) and len(text_of(record)) < 250
    assert in_words([]) == "(none)" and in_words(0.25) == "0.25" and in_words([ENTITY]) == "세종 [PS]"


def test_a_review_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_review(tmp_path / "r.gz", ANSWERS["answer"])
    first = (tmp_path / "r.gz").read_bytes()
    assert read_review(tmp_path / "r.gz") == ANSWERS["answer"]
    write_review(tmp_path / "r.gz", ANSWERS["answer"])
    assert (tmp_path / "r.gz").read_bytes() == first
    with pytest.raises(InputError, match="cannot be read"):
        read_review(tmp_path / "none.gz")
