"""Students of several sizes beside their teacher, with and without what it says: the figures of docs/distill.md.

    PYTHONPATH=. python benchmarks/distillation.py TEACHER [--layers 1 2 3] [--unlabelled 4000] [--test 2000]

TEACHER is a sweep on NSMC with a pretrained encoder, or its exported model. Its students begin with some of its layers
and learn from as many labelled reviews as it did; `distill` adds its answers, to these and to reviews without labels.
Each model is scored on the same test reviews, which are read only here. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from kobert_core.pretrained import read_train_config
from tuning.sweep.compare_models import model_of

NSMC = Path(__file__).resolve().parents[2] / "shared/data/nsmc"
STUDY = """\
schema_version: 1
name: student
task: nsmc
data: {{train: {reviews}/ratings_train.txt, max_train_examples: {labelled}, max_dev_examples: 1000, max_length: 64}}
model: {{backbone: {teacher}}}
train: {{epochs: {epochs}}}
optim: {{backbone_lr: 1.0e-4, classifier_lr: 5.0e-4}}
parameters: {{model.keep_layers: {{values: {layers}}}}}
search: {{algorithm: grid}}
scheduler: {{name: none}}
keep_checkpoints: {count}
"""


def main() -> None:
    """Train, score, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--unlabelled", type=int, default=4000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=2)
    asked = parser.parse_args()
    teacher = model_of(asked.teacher.resolve())
    labelled = read_train_config(teacher).data.max_train_examples
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        study = work / "student.yaml"
        values = {"reviews": NSMC, "labelled": labelled, "teacher": teacher, "layers": asked.layers}
        # As many steps without a teacher as with it: the labelled reviews are seen more often.
        epochs = {"alone": asked.epochs * (1 + asked.unlabelled / (labelled or 1)), "taught": asked.epochs}
        more, test = part(work / "more.txt", "train", asked.unlabelled), part(work / "test.txt", "test", asked.test)
        scores = {"teacher": evaluate(teacher, test)}
        sizes: list[dict[str, object]] = []
        for how in ("alone", "taught"):
            study.write_text(STUDY.format(**values, count=len(asked.layers), epochs=epochs[how]), encoding="utf-8")
            command = (
                ["sweep", study]
                if how == "alone"
                else ["distill", asked.teacher.resolve(), "--student", study, "--unlabelled", more]
            )
            told = json.loads(tune(*command, "--name", how, "--output", work, "--json"))
            sizes = told.get("students", sizes)
            rows = json.loads(tune("list", work / how, "--json"))["trials"]
            for row in rows:
                model = work / f"{how}-{row['trial']}"
                tune("export", work / how, "--trial", row["trial"], "--output", model)
                scores[f"{how} {row['values']['model.keep_layers']}"] = evaluate(model, test)
    print_table(sizes, scores)


def part(path: Path, split: str, count: int) -> Path:
    """The last so many reviews of a split. What of them a student is trained or judged on, `distill` leaves out."""
    head, *lines = (NSMC / f"ratings_{split}.txt").read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([head, *lines[-count:]]) + "\n", encoding="utf-8")
    return path


def evaluate(model: Path, test: Path) -> float:
    """Accuracy on the test reviews."""
    return float(json.loads(tune("evaluate", model, test, "--json"))["accuracy"])


def tune(*arguments: object) -> str:
    """The last line that a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tuning", *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return (done.stdout.splitlines() or [""])[-1]


def print_table(sizes: list[dict[str, object]], scores: dict[str, float]) -> None:
    """A row a size: the teacher first, then the students by their layers."""
    print("| model | MB | p50 ms, 1 text | p50 ms, 32 texts | test accuracy, labels alone | with the teacher |")
    print("|---|---|---|---|---|---|")
    for size in sorted(sizes, key=lambda each: -int(str(each["weights"]))):
        name, times = str(size["model"]), dict(size["p50_ms"])  # type: ignore[call-overload]
        layers = name.removeprefix("keep_layers ")
        alone, taught = (scores.get(f"{how} {layers}") for how in ("alone", "taught"))
        told = [scores["teacher"], None] if name == "teacher" else [alone, taught]
        cells = ["" if score is None else f"{score:.4f}" for score in told]
        milliseconds = [f"{times[count]:.1f}" for count in ("1", "32")]
        print("|", " | ".join([name, f"{int(str(size['weights'])) * 4 / 1e6:.1f}", *milliseconds, *cells]), "|")


if __name__ == "__main__":
    main()
