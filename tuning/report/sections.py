"""The parts of a report, in their order. One that has nothing to show says why, or is left out."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from kobert_core.texts import printable
from tuning.report import figures
from tuning.report.answers_section import answers, worth_reading
from tuning.report.elements import Markup, Section, code, details, escaped, figure, number, paragraph, seconds, table
from tuning.report.search import FEW, ComparedTrials, Importance, compare_trials, drawn, importance_of
from tuning.report.stopping import Rung, look_at_rungs, rungs_of, seconds_saved
from tuning.report.sweep_data import SweepData
from tuning.search.schedulers import rungs_of as scheduler_rungs
from tuning.study.objectives import goals_in
from tuning.sweep_dir.layout import STUDY, TABLE
from tuning.sweep_dir.trial_status import TrialState, last_line
from tuning.sweep_dir.trial_table import TrialRecord, standing
from tuning.tracking import redact_uri

FEW_ENDS = 5
"""With fewer trials that ran to their ends a rank correlation says next to nothing."""
BEST_SHOWN, TRIALS_SHOWN = 5, 300


def sections_of(data: SweepData) -> list[Section]:
    """All sections of a sweep's report."""
    rungs = rungs_of(data.study.scheduler, data.records, data.study.data.folds)
    compared = compare_trials(data, rungs)
    importance = importance_of(compared) if compared else None
    made: list[tuple[str, Callable[[], Iterator[Markup]]]] = [
        ("The winner" if data.result else "The best so far", lambda: winner(data)),
        ("Objectives and constraints", lambda: objectives(data)),
        ("Best so far, and what it took", lambda: best_so_far(data)),
        ("Learning curves", lambda: learning_curves(data, rungs)),
        ("The space", lambda: the_space(data, compared, importance)),
        ("Was stopping safe?", lambda: was_stopping_safe(data, rungs)),
        ("Workers and seconds", lambda: workers_and_seconds(data)),
        ("Right and wrong", lambda: answers(data)),
        ("Worth reading", lambda: worth_reading(data)),
        ("Failures", lambda: failures(data)),
        ("Data and environment", lambda: data_and_environment(data)),
        ("Make the winner again", lambda: make_again(data)),
    ]
    found = [Section(title, list(parts())) for title, parts in made]
    return [section for section in found if section.parts]


def winner(data: SweepData) -> Iterator[Markup]:
    """The verdict, the winner beside the baselines, and the best trials."""
    best, result = data.winner, data.result or {}
    if best is None:
        unmet = data.table.why_no_winner()
        yield paragraph(f"{unmet[0].upper()}{unmet[1:]}." if unmet else "No trial has come to a model.", "verdict")
    else:
        verdict = result.get("verdict") or {}
        metric = data.study.objective.metric
        told = f"{standing(best)}: {metric} {number(best.value or 0.0)} on dev"
        yield paragraph(verdict.get("sentence") or told[0].upper() + told[1:], "verdict")
        if not data.result:
            yield paragraph("This is the state so far: the sweep has not come to a result of these trials.", "note")
        yield from (paragraph(f"{note[0].upper()}{note[1:]}.", "note") for note in result.get("notes", ()))
        yield from _verdict_tables(verdict)
        yield _beside_baselines(data, best, result)
    yield from _confirmations(data)
    yield from _seeds_together(result.get("seeds"))
    told = "The best trials" + (": those that ran to their ends first" if data.table.complete_first else "")
    yield _trials(data, data.table.best(BEST_SHOWN), told)
    shown = data.records[:TRIALS_SHOWN]
    whole = len(shown) == len(data.records)
    told = f"All trials, as in {TABLE}" if whole else f"The first {len(shown)} trials; all are in {TABLE}"
    everything = _trials(data, shown, told)
    yield details(f"{len(shown)} of {len(data.records):,} trials", everything)
    if data.readings:
        yield _readings(data)


def _verdict_tables(verdict: Mapping[str, Any]) -> Iterator[Markup]:
    """The numbers of a verdict, whatever they are."""
    plain = list(_flat({name: value for name, value in verdict.items() if name != "sentence"}))
    if plain:
        yield table("The numbers of the verdict", ["", "value"], plain)
    for name, rows in verdict.items():
        if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
            columns = list(dict.fromkeys(key for row in rows for key in row))
            yield table(name.replace("_", " "), columns, [[row.get(key) for key in columns] for row in rows])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        told = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{told}, ")
        elif not (isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value)):
            yield told, value


def _beside_baselines(data: SweepData, best: TrialRecord, result: Mapping[str, Any]) -> Markup:
    baselines = [data.table[number] for number in sorted(set(data.study.search.baselines)) if number in data.table]
    test = result.get("test", {})
    columns = [("the winner" if data.result else "the best", best, test.get("winner", {}))]
    columns += [("baseline", each, test.get(f"trial_{each.trial}", {})) for each in baselines if each is not best]
    names = sorted({name for _, record, read in columns for name in (*record.metrics, *read)}, key=_metric_order)
    heads = [f"{who}: {standing(record)}" for who, record, _ in columns]
    rows = [[name, *((record.metrics | read).get(name) for _, record, read in columns)] for name in names]
    return table("Scores on dev, of the best checkpoint, and on the test file", ["", *heads], rows)


def _metric_order(name: str) -> tuple[int, str]:
    kinds = ("eval/", "test/")
    return next((place for place, kind in enumerate(kinds) if name.startswith(kind)), len(kinds)), name


def _confirmations(data: SweepData) -> Iterator[Markup]:
    if data.confirmations:
        names = sorted({name for run in data.confirmations for name in run.holdout})
        rows = [
            [f"trial {run.trial}, seed {run.seed}", run.stage, str(run.state).lower(), run.value]
            + [run.holdout.get(name) for name in names]
            + [seconds(run.seconds)]
            for run in data.confirmations
        ]
        columns = ["run", "stage", "state", "on dev", *names, "took"]
        yield table("Trained again with other seeds", columns, rows)


def _seeds_together(seeds: Mapping[str, Any] | None) -> Iterator[Markup]:
    """What the models with the winner's values say together."""
    if seeds:
        names = sorted(seeds["ensemble"], key=_metric_order)
        rows = [[name, seeds["ensemble"][name], seeds["averaged"].get(name)] for name in names]
        alone = f"each alone has {seeds['metric']} {number(seeds['mean'])} on average"
        caption = f"The {seeds['models']} confirmed seeds together, on dev: {alone}"
        yield table(caption, ["", "mean of their answers", "mean of their weights"], rows)


def _trials(data: SweepData, records: Sequence[TrialRecord], caption: str) -> Markup:
    names = list(dict.fromkeys(name for record in data.records for name in record.values))
    metrics = [name for name in dict.fromkeys(each.metric for each in data.study.further)]
    rows = [
        [record.trial, record.state.lower(), record.progress, record.value]
        + [record.metrics.get(name) for name in metrics]
        + [seconds(record.seconds)]
        + [_short(record.values.get(name)) for name in names]
        for record in records
    ]
    columns = ["trial", "state", "% done", data.study.objective.metric, *metrics, "took", *names]
    return table(caption, columns, rows)


def _short(value: object) -> object:
    """A value; of an absolute path its last part."""
    return value.rsplit("/", 1)[-1] if isinstance(value, str) and value.startswith("/") else value


def _readings(data: SweepData) -> Markup:
    rows = []
    for reading in data.readings:
        told: Mapping[str, Any] = reading
        weights = ", ".join(dict.fromkeys(map(str, (told.get("weights") or {}).values())))
        rows.append([told.get("time"), told.get("file"), told.get("by"), weights, told["sha256"][:16]])
    return table("Who read the test file, and when", ["time", "file", "by", "for", "SHA-256 begins"], rows)


def objectives(data: SweepData) -> Iterator[Markup]:
    """The Pareto front, and what constraints leave of the trials; nothing with one objective alone."""
    further, trials = data.study.further, data.table
    if not further:
        return
    yield paragraph(f"{data.study.objectives_in_words}. The first objective stops trials, and chooses and confirms.")
    if plot := figures.pareto_front(data):
        yield figure(plot, "Trials that ran to their ends, by what they are asked for", height=440, paper=True)
    if front := trials.front():
        rows = [[f"trial {record.trial}", *trials.goals_of(record).values()] for record in front]
        yield table("The Pareto front: no trial is better in all of these", ["", *trials.goals_of(front[0])], rows)
    elif goals_in(further):
        yield paragraph("No trial is on the Pareto front yet: none ran to its end and keeps all constraints.")
    if broken := [(record, told) for record in data.records if (told := trials.breaks(record))]:
        yield table("Trials that cannot win", ["", "breaks"], [[standing(record), told] for record, told in broken])


def best_so_far(data: SweepData) -> Iterator[Markup]:
    """What the search had found when so much was spent."""
    if not any(record.has_ended for record in data.records):
        yield paragraph("No trial has ended yet.")
        return
    plot, steps = figures.best_so_far(data)
    yield figure(plot, f"The best {data.study.objective.metric} so far, against the seconds that all trials took")
    whole = sum(record.seconds for record in data.records)
    rows = [[value, seconds(at), f"{100 * at / whole:.0f}%"] for at, value in steps]
    yield table("When the best became better", [data.study.objective.metric, "after", "of all seconds"], rows)


def learning_curves(data: SweepData, rungs: Sequence[int]) -> Iterator[Markup]:
    """How the trials came to their values."""
    if not any(record.curve for record in data.records):
        yield paragraph("No trial has been evaluated yet.")
        return
    has_rungs = scheduler_rungs(data.study.scheduler) is not None
    told = "; dotted lines are the rungs at which they may be stopped" if has_rungs else ""
    step = math.ceil(len(data.records) / TRIALS_SHOWN)
    told += f"; one trial of every {step}" if step > 1 else ""
    plot = figures.learning_curves(data, data.records[::step], rungs if has_rungs else [])
    yield figure(plot, f"{data.study.objective.metric} of each trial as it was trained{told}", height=440)


def the_space(data: SweepData, compared: ComparedTrials | None, importance: Importance | None) -> Iterator[Markup]:
    """Which values were good, and which parameters matter."""
    yield from (paragraph(f"{line}: they are no trials of this sweep.") for line in data.warm_start)
    if compared is None:
        yield paragraph("Too few trials have different values: nothing can be said of the parameters yet.")
        return
    metric = data.study.objective.metric
    where = "at their ends" if compared.percent == 100 else f"at {compared.percent}% of their steps"
    yield paragraph(f"{compared.count:,} trials are compared {where}.")
    if compared.count < FEW:
        yield paragraph(f"{compared.count} trials are few: read what follows as a hint, and not as a finding.", "note")
    if compared.percent < 100:
        yield paragraph("Too few ran to their ends: what pays early is not always what pays in the end.", "note")
    some = drawn(compared)
    of_them = "" if some is compared else f"; {some.count} of the {compared.count:,} trials, from the best to the worst"
    coordinates = figures.parallel_coordinates(some, metric)
    yield figure(coordinates, f"Parameters and {metric}, a line a trial{of_them}", height=420, wide=True, paper=True)
    if importance is None:
        yield paragraph("How much each parameter matters cannot be said of these trials.")
        return
    yield from _importance(compared, importance)
    names = list(importance.shares)[:2]
    told = f"{metric} against {' and '.join(names)}"
    yield figure(figures.slices(compared, names, metric), told, wide=len(names) > 1, paper=True)
    if len(names) == 2:
        caption = f"{metric} over {names[0]} and {names[1]}: between the trials it is interpolated{of_them}"
        yield figure(figures.contour(some, names, metric), caption, height=440, paper=True)


def _importance(compared: ComparedTrials, importance: Importance) -> Iterator[Markup]:
    resting = f"{importance.method}, by {compared.count:,} trials at {compared.percent}% of their steps"
    height = 120 + 36 * len(importance.shares)
    yield figure(figures.importances(importance), f"How much each parameter matters ({resting})", height=height)
    yield table("Importance, as numbers", ["parameter", "share"], [*importance.shares.items()])
    if importance.left_out:
        names = ", ".join(importance.left_out)
        yield paragraph(f"Left out, since not every trial has it: {names}.", "note")


def was_stopping_safe(data: SweepData, rungs: Sequence[int]) -> Iterator[Markup]:
    """Whether a look at a rung says how trials end."""
    looks = look_at_rungs(data.records, rungs, data.study.objective, data.winner)
    stopped = sum(record.state == TrialState.PRUNED for record in data.records)
    if not looks:
        yield paragraph("No trial has come to a point at which it could be stopped.")
        return
    yield paragraph(_in_short(looks, stopped, len(data.records)))
    rows = [
        [f"{rung.percent}%", rung.reached, rung.stopped, rung.ended, rung.correlation, _place(rung)] for rung in looks
    ]
    yield table(
        "The value at each rung, and the one at the end",
        ["rung", "trials there", "stopped there", "ran to the end", "Spearman's ρ", "place of the best then"],
        rows,
    )
    yield paragraph(
        "ρ is the rank correlation between the value at a rung and that of the best checkpoint, over the trials that "
        "ran to their ends. Those that were stopped have no end: they are not in it, and with them it would mostly be "
        "higher.",
        "note",
    )


def _in_short(looks: Sequence[Rung], stopped: int, trials: int) -> str:
    first = looks[0]
    if first.ended < FEW_ENDS or first.correlation is None:
        return f"It cannot be said: only {first.ended} trial(s) ran to their ends, and {stopped} were stopped."
    strength = "well" if first.correlation >= 0.7 else "somewhat" if first.correlation >= 0.3 else "hardly"
    return (
        f"At {first.percent}% the order of the trials says {strength} how they end (ρ {first.correlation:.2f} over "
        f"{first.ended} trials); {stopped} of {trials} trials were stopped early."
    )


def _place(rung: Rung) -> str | None:
    return None if rung.place_of_winner is None else f"{rung.place_of_winner} of {rung.reached}"


def workers_and_seconds(data: SweepData) -> Iterator[Markup]:
    """When each trial ran, and what became of the time."""
    records = [record for record in data.records if record.started and record.seconds]
    if not records:
        yield paragraph("No trial has run for long enough.")
        return
    busy, lanes = sum(record.seconds for record in records), figures.lanes_of(records)
    if data.last_reports:
        span = max(data.last_reports.values()) - lanes.begin
        yield paragraph("Trials paused and went on later: when each of them ran is not drawn.", "note")
    else:
        span = lanes.end - lanes.begin
        plot = figures.timeline(records, lanes)
        yield figure(plot, "When each trial ran, and beside which others", height=130 + 44 * lanes.count, wide=True)
    resources = data.study.resources
    held = "GPU" if resources.gpus_per_worker else "CPU"
    each = resources.workers * (resources.gpus_per_worker or resources.cpus_per_worker)
    states = [state for state in figures.COLOURS if any(record.state == state for record in records)]
    rows: list[list[object]] = [
        [f"trials, {state.lower()}", *_share([r for r in records if r.state == state], busy, each)] for state in states
    ]
    rows.append(["all trials", *_share(records, busy, each)])
    if data.confirmations:
        again = sum(run.seconds for run in data.confirmations)
        rows.append(
            ["trained again with other seeds", len(data.confirmations), seconds(again), None, round(again * each)]
        )
    yield table("Seconds spent", ["", "trials", "time", "of the trials' time", f"{held} seconds"], rows)
    idle = max(0.0, lanes.count * span - busy)
    lost = sum(record.seconds for record in records if record.state == TrialState.FAILED)
    at_once: list[list[object]] = [
        ["trials at once, at most", lanes.count],
        ["idle between trials, all worker groups together", seconds(idle)],
    ]
    facts: list[list[object]] = [
        ["from the first trial's beginning to the last one's end", seconds(span)],
        *(() if data.last_reports else at_once),
        ["saved by stopping, at the pace that the stopped trials had", seconds(seconds_saved(records))],
        ["lost to failures", seconds(lost)],
    ]
    if data.result and (whole := float(data.result.get("seconds", 0.0))) > span:
        facts.append(["besides: starting, reading data, judging, export", seconds(whole - span)])
    yield table("What became of the time", ["", "time"], facts)
    if data.plan:
        yield _beside_plan(data, data.plan, span)
    if not data.last_reports and (any(r.state == TrialState.INTERRUPTED for r in records) or idle > busy):
        yield paragraph("A trial that went on after an interruption is drawn in one piece from its beginning.", "note")


def _beside_plan(data: SweepData, plan: Mapping[str, Any], search: float) -> Markup:
    """What was planned, and what it took; `search` is the seconds that the trials took from first to last."""
    planned = next(each for each in plan["schedules"] if each["groups"] == plan["here"])
    complete = [record.seconds for record in data.records if record.state == TrialState.COMPLETE]
    stopped = sum(record.state == TrialState.PRUNED for record in data.records)
    rows: list[list[object]] = [
        ["the sweep", seconds(planned["seconds"]), seconds(data.result["seconds"]) if data.result else None],
        ["the search", seconds(planned["search"]), seconds(search)],
        ["a trial to its end, on average", seconds(plan["trial"]), seconds(fmean(complete)) if complete else None],
        ["trials stopped early", round(plan["stopped"]), stopped],
    ]
    return table("The plan, and what it took", ["", "planned", "took"], rows)


def _share(records: Sequence[TrialRecord], whole: float, each: float) -> list[object]:
    took = sum(record.seconds for record in records)
    return [len(records), seconds(took), f"{100 * took / whole:.0f}%", round(took * each)]


def failures(data: SweepData) -> Iterator[Markup]:
    """The trials that failed, and why."""
    failed = [record for record in data.records if record.state == TrialState.FAILED]
    if not failed:
        yield paragraph("No trial has failed.")
        return
    rows = [
        [record.trial, record.progress, seconds(record.seconds), redact_uri(last_line(record.reason or "unknown"))]
        for record in failed
    ]
    yield table("Trials that failed", ["trial", "% done", "took", "reason"], rows)
    for record in failed[:BEST_SHOWN]:
        if record.reason and "\n" in record.reason.strip():
            yield details(f"all that trial {record.trial} said", code(redact_uri(record.reason)))
    yield paragraph(Markup(f"<code>kobert-tune logs {escaped(_quoted(data))} TRIAL</code> shows what one printed."))


def data_and_environment(data: SweepData) -> Iterator[Markup]:
    """What the numbers depend on."""
    if data.provenance:
        hashed = [*data.provenance["files"].items(), ("data.test", data.provenance["test"])]
        rows = [
            [key, name, Markup(f"<code>{escaped(of)}</code>")] for key, files in hashed for name, of in files.items()
        ]
        yield table("Files, and their SHA-256; of a model on the hub its commit", ["", "file", "hash"], rows)
        yield table("Versions", ["library", "version"], [*data.provenance["libraries"].items()])
    else:
        yield paragraph("The sweep is of an older version, which kept no hashes.")
    if data.environment:
        yield details("all packages", code(data.environment))
    yield details(f"the study, with all defaults ({STUDY})", code(data.study_file))


def make_again(data: SweepData) -> Iterator[Markup]:
    """The commands that give the winner."""
    best = data.winner
    if best is None:
        return
    if best.lineage:
        yield paragraph("The winner went on from other trials' weights: no single run gives it again.")
    elif best.state != TrialState.COMPLETE and data.study.resources.workers == 1 and data.study.data.folds is None:
        told = f"Trial {best.trial}, trained again up to {best.progress}%, and compared with what was recorded:"
        yield paragraph(told)
        yield code(f"kobert-tune reproduce {_quoted(data)} --trial {best.trial}")
    else:
        point = json.dumps({"points": [best.values]}, ensure_ascii=False)
        study, search = shlex.quote(str(data.folder / STUDY)), shlex.quote(f"search={point}")
        yield paragraph(f"Trial {best.trial}, trained again by itself, with the same seed and data:")
        yield code(f"kobert-tune train {study} \\\n  --set {search} \\\n  --output again")
    if best.checkpoint:
        yield paragraph("Its weights as they are:")
        trial = "" if data.result else f" --trial {best.trial}"
        yield code(f"kobert-tune export {_quoted(data)}{trial} --output best")


def _quoted(data: SweepData) -> str:
    return printable(shlex.quote(str(data.folder)))
