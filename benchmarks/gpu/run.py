"""The product on a GPU: `make gpu`, or `python benchmarks/gpu/run.py [--parts NAME ...] [--budget SECONDS]`.

Each part is a process of its own with a limit of time: one that fails, hangs or loses the device costs no other. A
part prints each result at once and appends it to `results.jsonl` in the output folder. From that, `GPU.md` and
`GPU.json` are written there after each part. Without a GPU the sizes are tiny, and what needs one is left out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OWN = HERE.parent / ".results" / "gpu"
REPORTS = ("GPU.md", "GPU.json")
sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent / "sides")]

from report import conditions, write  # noqa: E402
from results import Results, append, read  # noqa: E402


@dataclass(frozen=True)
class Part:
    """A module with a function of the part's name, and how long it may take."""

    module: str
    what: str
    limit: int
    seconds: int
    """What it takes on an H100, about."""
    environment: dict[str, str] = field(default_factory=dict)


WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Without it, cuBLAS refuses to be deterministic."""

PARTS = {
    "correct": Part("correct", "the numbers are those of the padded model, and memory is kept to", 90, 60),
    "auto": Part("correct", "`batch_size: auto` fills the memory", 60, 25),
    "attention": Part("attention", "ways of attention without padding", 45, 25),
    "speed": Part("speed", "ours and Trainer, taking turns; matrix products", 115, 90),
    "resume": Part("resume", "stopped and resumed: which bits are the same, and what they cost", 80, 45, WORKSPACE),
    "sweep": Part("sweep", "trials by Ray, one at a time and four at once; how long the card idles", 260, 230),
    "e5": Part("e5", "a real encoder tuned on all of NSMC, and the test file", 80, 45),
    "families": Part("families", "encoders of other families: the numbers, and ours beside Trainer", 220, 180),
    "profile": Part("kernels", "where the time goes, kernel by kernel", 60, 30),
    "compiled": Part("speed", "ours and Trainer with torch.compile", 180, 90),
    "flex": Part("attention", "FlexAttention, compiled", 90, 45),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=OWN, help="where results go; those that are there are kept")
    parser.add_argument("--budget", type=float, help="begin no part whose limit is longer than what is left, seconds")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU, as without a GPU")
    parser.add_argument("--list", action="store_true", help="the parts, and no more")
    parser.add_argument("--one", choices=list(PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.list:
        for name, part in PARTS.items():
            print(f"{name:10} {part.what}; about {part.seconds} s, at most {part.limit}")
        return 0
    if given.one:
        run_here(given.one, given.out, given.tiny)
        return 0
    return run_all(given.parts, given.out, given.budget, given.tiny)


def run_here(name: str, out: Path, tiny: bool) -> None:
    """A part, in this process."""
    getattr(importlib.import_module(PARTS[name].module), name)(Results(name, out), tiny)


def run_all(names: list[str], out: Path, budget: float | None, tiny: bool) -> int:
    """The parts, one after the other, each in a process of its own; the exit code."""
    began = time.monotonic()
    condition = conditions()
    if not condition["gpu"]:
        print("no GPU is here: tiny sizes on the CPU, without what needs one; no figure of this means anything")
        tiny = True
    append(out, {"part": "run", "name": "conditions", "value": condition["gpu"] or "CPU", **condition, "tiny": tiny})
    failed = 0
    for name in names:
        left = None if budget is None else budget - (time.monotonic() - began)
        if left is not None and left < PARTS[name].limit / 2:
            append(out, {"part": name, "name": "all", "missing": f"{left:.0f} s were left"})
            continue
        limit = PARTS[name].limit * (4 if tiny else 1)
        limit = limit if left is None else min(left, limit)
        failed += not run_apart(name, out, limit, tiny)
        write(out)
    if out == OWN and not tiny:
        for report in REPORTS:
            (HERE.parent / report).write_text((out / report).read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{len(read(out))} results in {time.monotonic() - began:.0f} s: {out / REPORTS[0]}")
    return 1 if failed else 0


def run_apart(name: str, out: Path, limit: float, tiny: bool) -> bool:
    """A part in a process of its own, ended at its limit; whether it came to its end."""
    part = PARTS[name]
    command = [sys.executable, str(HERE / "run.py"), "--one", name, "--out", str(out), *(["--tiny"] if tiny else [])]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | part.environment | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    began, log = time.monotonic(), out / "stderr.txt"
    with open(log, "a", encoding="utf-8") as errors:
        errors.write(f"\n== {name}\n")
        errors.flush()
        start = errors.tell()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors, start_new_session=True)
        try:
            process.wait(limit)
            ended = f"exit code {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            ended = f"ended at its limit of {limit:.0f} s"
        except KeyboardInterrupt:
            ended = "interrupted"
            raise
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its own group: it was started as the leader of one
                process.wait()
    if ended:
        append(out, {"part": name, "name": "all", "error": ended})
        with open(log, encoding="utf-8", errors="replace") as errors:
            errors.seek(start)
            print(f"  {errors.read()[-1500:].strip()}", flush=True)
    else:
        append(out, {"part": name, "name": "time", "value": time.monotonic() - began, "unit": "s"})
    return not ended


if __name__ == "__main__":
    sys.exit(main())
