"""`kobert-tune predict` on files of any size: memory of a long file beside a short one, and speed beside the loop's own
evaluation of the same rows, whose features are already there.

    PYTHONPATH=. python benchmarks/predict_rows.py [--short 100000] [--long 1000000] [--model MODEL_DIR]

Rows are NSMC's reviews, again and again. Without --model it is one of 2 layers, 128 units and random weights: for such
a small one reading and tokenizing weigh most. Evaluation and prediction of the short file take turns. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kobert_core.data.source import Source
from kobert_core.evaluation import predict
from kobert_core.pretrained import load_pretrained, save_model_files, save_weights
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import parse_train_config, task_class

SHARED = Path(__file__).resolve().parents[2] / "shared"
REVIEWS = SHARED / "data/nsmc/ratings_train.txt"
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
TIMED = """
import resource, runpy, sys, time
begin = time.perf_counter()
sys.argv = ["kobert-tune", *sys.argv[1:]]
try:
    runpy.run_module("tuning", run_name="__main__")
except SystemExit as end:
    assert not end.code
print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", type=int, default=100_000)
    parser.add_argument("--long", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = asked.model or random_model(work / "model")
        short, long = write(work / "short.tsv", asked.short), write(work / "long.tsv", asked.long)
        overhead = predicted(model, write(work / "one.tsv", 1))[0]  # to start Python and to load the model
        rates: dict[str, list[float]] = {"evaluation": [], "predict": []}
        for _ in range(asked.rounds):
            rates["evaluation"].append(asked.short / evaluated(model, short))
            seconds, short_mib = predicted(model, short)
            rates["predict"].append(asked.short / (seconds - overhead))
        seconds, long_mib = predicted(model, long)
        medians = {f"{name}_rows_per_second": statistics.median(values) for name, values in rates.items()}
        ratios = [ours / loop for ours, loop in zip(rates["predict"], rates["evaluation"], strict=True)]
        found = medians | {
            "of_the_loops_evaluation": statistics.median(ratios),
            "short_mib": short_mib,
            "long_mib": long_mib,
            "long_rows_per_second": asked.long / (seconds - overhead),
        }
        print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=2))


def random_model(folder: Path) -> Path:
    """An exported model that was not trained."""
    config = parse_train_config(
        {
            "task": "nsmc",
            "data": {"train": str(REVIEWS), "max_train_examples": 1000, "max_length": 64},
            "model": {"init": "random", "config": SIZES, "tokenizer": str(SHARED / "models/skt-kobert-base-v1")},
        }
    )
    task = task_class(config.task)(config)
    save_model_files(folder, task)
    save_weights(folder, type(task), task.build_model().state_dict())
    return folder


def write(path: Path, count: int) -> Path:
    """A table of so many reviews, with ids of their own."""
    texts = [line.split("\t")[1] for line in REVIEWS.read_text(encoding="utf-8").splitlines()[1:]]
    texts = [text for text in texts if text.strip()]
    with open(path, "w", encoding="utf-8") as file:
        file.write("id\tdocument\n")
        file.writelines(f"{number}\t{texts[number % len(texts)]}\n" for number in range(count))
    return path


def evaluated(model: Path, table: Path) -> float:
    """Seconds of the loop's evaluation of these rows, without reading them."""
    pretrained, runtime = load_pretrained(model), LocalRuntime()
    parts = list(pretrained.task.input_parts(Source.of(table)))
    examples = [part.examples for part in parts]
    begin = time.perf_counter()
    for some in examples:
        predict(pretrained.model.to(runtime.device), pretrained.task, some, runtime)
    return time.perf_counter() - begin


def predicted(model: Path, table: Path) -> tuple[float, float]:
    """Seconds and the largest memory, in MiB, of the command."""
    command = [sys.executable, "-c", TIMED, "predict", model, table, "--output", table.with_suffix(".jsonl")]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    seconds, mib = map(float, done.stdout.splitlines()[-1].split())
    return seconds, mib


if __name__ == "__main__":
    main()
