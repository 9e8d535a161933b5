"""GPU.md and GPU.json, from the lines of the results file."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results import Bar, in_words, number, read

PACKAGES = ("torch", "transformers", "accelerate", "triton", "flash-attn", "numpy", "ray", "optuna", "mlflow")
Record = Mapping[str, Any]
OURS, GROUPED, LOADERS, RANDOM = "ours", "Trainer, grouped", "Trainer, grouped, 4 loaders", "Trainer, random"
FASTER = {"nsmc": Bar(at_least=1.5), "korquad": Bar(at_least=1.3)}
SHARE = {"nsmc": Bar(at_least=0.3), "korquad": Bar(at_least=0.45)}


def conditions() -> dict[str, Any]:
    """Card, driver, versions, date, commit. This process takes nothing of the card's memory for them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    gpu = (_told_by(query) or _told_by([sys.executable, "-c", _ASK_TORCH])).split(", ")
    name, memory, driver = gpu if len(gpu) == 3 else ("", "0", "")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": name,
        "gpu_gb": round(float(memory) / 1024, 1),
        "driver": driver,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: _installed(name) for name in PACKAGES},
        "commit": _told_by(["git", "rev-parse", "--short", "HEAD"]),
    }


_ASK_TORCH = """import torch
if torch.cuda.is_available():
    card = torch.cuda.get_device_properties(0)
    print(card.name, card.total_memory // 2**20, "unknown", sep=", ")"""


def _told_by(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return ""


def _installed(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def write(folder: Path) -> None:
    """Both reports, from what is there by now."""
    records = newest(read(folder))
    derived = comparisons(records)
    kernels = {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("kernels-*.txt"))}
    (folder / "GPU.md").write_text(render(records, derived, kernels), encoding="utf-8")
    content = {"records": records, "comparisons": derived}
    (folder / "GPU.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def newest(records: Sequence[Record]) -> list[Record]:
    """Of a part that ran twice the last run, of the conditions the last ones. A part's run ends with `time` or an
    error of `all`."""
    runs: dict[str, list[list[Record]]] = defaultdict(lambda: [[]])
    for record in records:
        runs[record["part"]][-1].append(record)
        if record["name"] in ("time", "all", "conditions"):
            runs[record["part"]].append([])
    return [record for part in runs.values() for record in next((run for run in reversed(part) if run), [])]


def comparisons(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Ours against Trainer and against the matrix products, from the rounds of `speed`."""
    rounds: dict[tuple[str, int], dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record["part"] == "speed" and "side" in record:
            rounds[record["task"], record["batch"]][record["side"]][record["round"]] = record
    rate = next((r["value"] for r in records if r["name"] == "matrix products, bf16, 8192 x 8192 x 8192"), None)
    derived: list[dict[str, Any]] = []
    for (task, batch), sides in rounds.items():
        ours = sides.get(OURS, {})
        for peer in (RANDOM, GROUPED, LOADERS):
            pairs = [(ours[n]["value"], sides[peer][n]["value"]) for n in sides.get(peer, {}) if n in ours]
            ratios = [mine / theirs for mine, theirs in pairs]
            if ratios:
                bar = FASTER[task] if peer != RANDOM else None
                derived.append(_compared(f"{task}, batch {batch}: ours against {peer}", ratios, bar))
        shares = [r["gflop"] / r["seconds"] / 1e3 / rate for r in ours.values()] if rate else []
        if shares:
            derived.append(_compared(f"{task}, batch {batch}: share of the matrix-product rate", shares, SHARE[task]))
    return derived


def _compared(name: str, values: list[float], bar: Bar | None) -> dict[str, Any]:
    median = statistics.median(values)
    figures = {"name": name, "value": median, "least": min(values), "most": max(values)}
    return figures | ({"bar": str(bar), "reached": bar.reached(median)} if bar else {})


def render(records: Sequence[Record], derived: Sequence[Record], kernels: Mapping[str, str]) -> str:
    """The report for people."""
    head = next((record for record in records if record["part"] == "run"), {})
    parts = [_head(head), _bars(records, derived)]
    if any(record["part"] == "speed" and "side" in record for record in records):
        parts.append(_speed(records, derived))
    for part in dict.fromkeys(record["part"] for record in records):
        shown = [r for r in records if r["part"] == part and "bar" not in r and "side" not in r and "table" not in r]
        if part != "run" and shown:
            parts.append("\n".join([f"## {part}", "", *(f"- {_plain(in_words(r), part)}" for r in shown)]))
        parts += [_table(record) for record in records if record["part"] == part and "table" in record]
    for name, table in kernels.items():
        parts.append(f"## {name}\n\n```\n{table.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _head(head: Record) -> str:
    if not head:
        return "# On a GPU"
    versions = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    lines = [
        "# On a GPU",
        "",
        "Written by `make gpu`; not by hand.",
        "",
        f"- card: {head['gpu']}, {head['gpu_gb']} GB; driver {head['driver']}; {head['cores']} cores"
        if head["gpu"]
        else "- no GPU: tiny sizes on a CPU, and no figure here means anything",
        f"- versions: Python {head['python']}, {versions}",
        f"- date: {head['date']}; commit {head['commit'] or 'unknown'}",
        "- NCCL with two workers cannot be had on one card, and was not tried",
    ]
    return "\n".join(lines)


def _bars(records: Sequence[Record], derived: Sequence[Record]) -> str:
    rows = ["| what | value | least - most | bar | reached |", "|---|---|---|---|---|"]
    notes = []
    for record in [*derived, *records]:
        if "bar" in record:
            spread = f"{number(record['least'])} - {number(record['most'])}" if "least" in record else ""
            value = f"{number(record['value'])} {record.get('unit', '')}".strip()
            reached = "yes" if record["reached"] else "**no**"
            rows.append(f"| {record['name']} | {value} | {spread} | {record['bar']} | {reached} |")
            if record.get("note"):
                notes.append(f"- {record['name']}: {record['note']}")
        elif "error" in record or "missing" in record:
            why = record.get("error") or record["missing"]
            rows.append(f"| {record['part']}: {record['name']} | | | | not measured: {_cell(why)} |")
    return "\n".join([*rows, "", *notes])


def _speed(records: Sequence[Record], derived: Sequence[Record]) -> str:
    """Each side's figures, the median of its rounds."""
    lines = ["## Ours and Trainer", "", "Medians of the rounds, with the least and the most.", ""]
    lines += [
        "| task, batch | side | examples/s | ms a step | peak GB | slow steps |",
        "|---|---|---|---|---|---|",
    ]
    sides: dict[tuple[str, int, str], list[Record]] = defaultdict(list)
    for record in records:
        if "side" in record:
            sides[record["task"], record["batch"], record["side"]].append(record)
    for (task, batch, side), rounds in sides.items():
        rates = [r["value"] for r in rounds]
        spent = [1e3 * r["seconds"] / r["steps"] for r in rounds]
        cells = [
            f"{number(statistics.median(rates))} ({number(min(rates))} - {number(max(rates))})",
            f"{number(statistics.median(spent))} ({number(min(spent))} - {number(max(spent))})",
            number(max(r["peak_gb"] for r in rounds)),
            number(statistics.median(r["slow"] for r in rounds)),
        ]
        lines.append(f"| {task}, {batch} | {side} | {' | '.join(cells)} |")
    plain = [f"- {r['name']}: {number(r['value'])}" for r in derived if "bar" not in r]
    return "\n".join([*lines, "", *plain])


def _table(record: Record) -> str:
    """A record that carries a table: its first row are the names of the columns."""
    first, *rows = record["table"]
    lines = [
        f"### {record['name']}",
        "",
        record.get("note", ""),
        "",
        f"| {' | '.join(first)} |",
        "|---" * len(first) + "|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(map(_cell, row))} |" for row in rows)])


def _cell(value: Any) -> str:
    return re.sub(r"\s+", " ", value if isinstance(value, str) else number(value)).replace("|", "/")


def _plain(words: str, part: str) -> str:
    return words.removeprefix(f"{part}: ")
