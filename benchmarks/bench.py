"""All sides side by side: `make bench`, or `python benchmarks/bench.py [--only GROUP ...] [--rounds N]`.

Every measurement is a process of its own. The sides of a group take turns, round by round, so that what else the
machine does falls on all of them; a ratio is taken within a round, and the median of the rounds is what counts. What
was measured is appended to `benchmarks/.results/results.jsonl`: a run that was cut off goes on there, as long as code
and machine are the same. `benchmarks/RESULTS.md` is written anew after each group.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from plan import GROUPS, ORIGINAL, ROOT, SHARED, SIDES, Group
from render import render

RESULTS = ROOT / "benchmarks/.results/results.jsonl"
REPORT = ROOT / "benchmarks/RESULTS.md"
MEASURED = ("kobert_core", "search_spaces", "tuning", "benchmarks", ":!benchmarks/RESULTS.md")
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "sentencepiece", "numpy", "ray", "optuna")
LONGEST = 1800  # seconds of one measurement
QUIET, TRIES = 0.1, 3  # cores that other processes may keep busy; so often is what was disturbed measured


def conditions() -> dict[str, Any]:
    """What the figures depend on besides the plan."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    commit = git("log", "-1", "--format=%h", "--", *MEASURED) or "unknown"
    changed = " with changes" if git("status", "--porcelain", "--", *MEASURED) else ""
    return {
        "commit": commit + changed,
        "code": digest(git("ls-files", "--cached", "--others", "--exclude-standard", "--", *MEASURED).splitlines()),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
    }


def digest(files: list[str]) -> str:
    """Of the contents of all files that are measured, committed or not."""
    total = hashlib.sha256()
    for name in sorted(files):
        file = ROOT / name
        total.update(f"{name}\0".encode() + (file.read_bytes() if file.is_file() else b""))
    return total.hexdigest()[:16]


def processor() -> str:
    """Its model, as the kernel has it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def installed(package: str) -> str:
    """The version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def records() -> Iterator[dict[str, Any]]:
    """What the file holds, its first line (the conditions) too; a torn last line is left out."""
    if RESULTS.is_file():
        for line in RESULTS.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def append(record: dict[str, Any]) -> None:
    """Add a line."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def measure_in_quiet(command: list[str], threads: int | None) -> dict[str, Any]:
    """`measure`, again while other processes disturb it; of `TRIES` disturbed measurements the quietest counts."""
    tries = []
    for _ in range(TRIES):
        tries.append(measure(command, threads))
        if (tries[-1].get("others") or 0.0) <= QUIET:
            return tries[-1]
    return min(tries, key=lambda figures: float(figures["others"]))


def measure(command: list[str], threads: int | None) -> dict[str, Any]:
    """Run one side; what it gave, with the wall time of its process, or why it gave nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if command[0] == str(ORIGINAL):
        del environment["PYTHONPATH"]
    began, busy, own = time.perf_counter(), busy_seconds(), children_seconds()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {LONGEST} s"}
    wall = time.perf_counter() - began
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return {"error": said[-1] if said else f"exit code {done.returncode}"}
    others = max(0.0, busy_seconds() - busy - (children_seconds() - own)) / wall
    figures = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), None)
    if figures is None:
        return {"error": "it gave no figures"}
    # The processes of Ray are no children of ours: there, others cannot be told from what is measured.
    return {"seconds": wall, "wall": wall, "others": others if threads is not None else None} | json.loads(figures)


def busy_seconds() -> float:
    """CPU time of the whole machine that was not idle, since it started."""
    user, nice, system, _idle, _wait, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """CPU time of the sides that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(name: str, group: Group, rounds: int) -> bool:
    """The rounds of a group that are not there yet; whether all sides gave their figures."""
    there = {(r["group"], r["side"], r["round"]) for r in records() if "group" in r and "error" not in r["figures"]}
    complete = True
    sides = list(group.sides.items())
    for number in range(rounds):
        first = number % len(sides)  # no side is always the first
        for side, command in sides[first:] + sides[:first]:
            if (name, side, number) in there or (side in group.original and not ORIGINAL.is_file()):
                continue
            seed = ["--seed", str(number)] if group.seeded else []
            figures = measure_in_quiet([*command, *seed], group.threads)
            append({"group": name, "side": side, "round": number, "figures": figures})
            complete = complete and "error" not in figures
            shown = figures.get("error") or f"{figures['seconds']:.2f} s"
            print(f"{time.strftime('%H:%M:%S')}  {name:13} round {number + 1}  {side:32} {shown}", flush=True)
    return complete


def original_versions() -> str | None:
    """Versions in the second environment, which must give the reference ids and features."""
    if not ORIGINAL.is_file():
        return None
    check = [str(ORIGINAL), str(SIDES / "original_pipeline.py"), "--what", "check", "--shared", str(SHARED)]
    checked = measure(check, 1)
    if "error" in checked:
        raise SystemExit(f"the second environment does not give the reference figures: {checked['error']}")
    code = "import transformers, sentencepiece; print(transformers.__version__, sentencepiece.__version__)"
    done = subprocess.run([str(ORIGINAL), "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--rounds", type=int, help="instead of each group's own number")
    parser.add_argument("--afresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the report of what is there")
    given = parser.parse_args()
    if not given.render:
        now = conditions() | {"original": original_versions()}
        if given.afresh or next(records(), None) != now:
            RESULTS.unlink(missing_ok=True)
            append(now)
        subprocess.run([sys.executable, str(SIDES / "prepare.py")], cwd=ROOT, check=True, env=with_path())
    complete = True
    for name in [] if given.render else given.only:
        complete = run(name, GROUPS[name], given.rounds or GROUPS[name].rounds) and complete
        REPORT.write_text(render(list(records())), encoding="utf-8")
    if given.render:
        REPORT.write_text(render(list(records())), encoding="utf-8")
    print(f"written: {REPORT.relative_to(ROOT)}")
    sys.exit(0 if complete else 1)


def with_path() -> dict[str, str]:
    """The environment of a process that measures nothing."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    main()
