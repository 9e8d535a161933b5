"""What MLflow says with the models that it is sent, in an environment made from their requirements alone, beside what
`kobert-tune predict` says here: on real rows, for every task, loaded and over HTTP.

    PYTHONPATH=. python benchmarks/mlflow_models.py [--rows 1000] [--only nsmc tokens …] [--environment FOLDER]

Models have 2 layers, 128 units and random weights: their answers are closer to one another than those of trained ones,
and so the first to differ. --environment keeps the environment, or uses one that is there. Prints JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kobert_core.pretrained import save_model_files, save_weights
from kobert_core.tasks import parse_train_config, task_class
from tests.fixtures.nodes import free_port
from tuning.tracking.mlflow_model import write_mlflow_model
from tuning.tracking.mlflow_store import prepare_environment

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TOKENIZER = str(DATA.parent / "models" / "skt-kobert-base-v1")
SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
LOADED = """
import json, sys, mlflow.pyfunc, pandas
for folder in sys.argv[1:]:
    model, rows = mlflow.pyfunc.load_model(folder + "/mlflow"), json.load(open(folder + "/rows.json", encoding="utf-8"))
    answers = model.predict(pandas.DataFrame(rows)).to_dict("records")
    json.dump(answers, open(folder + "/loaded.json", "w", encoding="utf-8"))
assert not {"tuning", "ray"} & sys.modules.keys()
"""
Row = dict[str, str]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--environment", type=Path)
    asked = parser.parse_args()
    prepare_environment()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        models = {name: Case(work / name, name, asked.rows) for name in asked.only}
        begin = time.perf_counter()
        bin_folder = fresh_environment(
            asked.environment or work / "environment", next(iter(models.values())).mlflow / "requirements.txt"
        )
        found["environment_seconds"] = round(time.perf_counter() - begin, 1)
        folders = [str(case.folder) for case in models.values()]
        subprocess.run(
            [str(bin_folder / "python"), "-c", LOADED, *folders], cwd=work, env=alone(bin_folder), check=True
        )
        for name, case in models.items():
            wanted = case.predicted()
            loaded, served = case.loaded(), case.served(bin_folder)
            found[name] = {
                "rows": len(wanted),
                "equal_when_loaded": sum(one == other for one, other in zip(loaded, wanted, strict=True)),
                "equal_when_served": sum(one == other for one, other in zip(served, wanted, strict=True)),
                "answers": len({json.dumps(answer) for answer in wanted}),
            }
    print(json.dumps(found, indent=2, ensure_ascii=False))


class Case:
    """A model of one task, the rows that it is asked about, and the file that has the same rows."""

    def __init__(self, folder: Path, name: str, count: int) -> None:
        folder.mkdir()
        self.folder, self.model, self.mlflow = folder, folder / "model", folder / "mlflow"
        self.file, self.rows, values = CASES[name](folder, count)
        (folder / "rows.json").write_text(json.dumps(self.rows), encoding="utf-8")
        config = parse_train_config(values)
        task = task_class(config.task)(config)
        torch.manual_seed(0)
        save_model_files(self.model, task)
        save_weights(self.model, type(task), task.build_model().state_dict())
        write_mlflow_model(self.mlflow, self.model, model_id="m-0", run_id=None)

    def predicted(self) -> list[dict[str, object]]:
        """What `kobert-tune predict` writes, without the ids and texts."""
        output = self.folder / "predicted.jsonl"
        command = [sys.executable, "-m", "tuning", "predict", self.model, self.file, "--output", output]
        subprocess.run([*map(str, command)], env=os.environ | ONE_THREAD, capture_output=True, check=True)
        answers = map(json.loads, output.read_text(encoding="utf-8").splitlines())
        given = {"id", *self.rows[0]}
        return [{name: value for name, value in answer.items() if name not in given} for answer in answers]

    def loaded(self) -> list[dict[str, object]]:
        """What `mlflow.pyfunc.load_model` gave."""
        found: list[dict[str, object]] = json.loads((self.folder / "loaded.json").read_text(encoding="utf-8"))
        return found

    def served(self, bin_folder: Path) -> list[dict[str, object]]:
        """What `mlflow models serve` answers."""
        columns = list(self.rows[0])
        split = {"columns": columns, "data": [[row[name] for name in columns] for row in self.rows]}
        with serving(bin_folder, self.mlflow) as url:
            body = json.dumps({"dataframe_split": split}).encode()
            request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=600) as answer:
                found: list[dict[str, object]] = json.load(answer)["predictions"]
        return found


def fresh_environment(folder: Path, requirements: Path) -> Path:
    """The `bin` folder of an environment that has these packages and what they ask for, and nothing else."""
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "pip", "install", "--quiet", "--requirement", requirements]
        subprocess.run([*map(str, pip)], check=True, stdout=subprocess.DEVNULL)
    return folder / "bin"


ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def alone(bin_folder: Path) -> dict[str, str]:
    """Variables of a process that knows nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | ONE_THREAD | {"PATH": f"{bin_folder}:{kept['PATH']}"}


@contextmanager
def serving(bin_folder: Path, model: Path) -> Iterator[str]:
    """The address of MLflow's own server of a model, which is ended after."""
    port = free_port()
    command = [bin_folder / "mlflow", "models", "serve", "--model-uri", model, "--port", port, "--env-manager", "local"]
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=model.parent,
        env=alone(bin_folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)


def config(task: str, file: Path, **data: object) -> dict[str, Any]:
    """A config of a task that trains on nothing."""
    model = {"init": "random", "config": SIZES, "tokenizer": TOKENIZER}
    return {"task": task, "data": {"train": str(file)} | data, "model": model}


def table(folder: Path, rows: Iterable[Row], columns: Row) -> Path:
    """The rows as a CSV file, whose columns have other names than the rows have."""
    with open(folder / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.values())
        writer.writerows([row[name] for name in columns] for row in rows)
    return folder / "rows.csv"


def read_tsv(path: Path) -> list[Row]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def nsmc(folder: Path, count: int) -> tuple[Path, list[Row], dict[str, Any]]:
    texts = [row["document"] for row in read_tsv(DATA / "nsmc" / "ratings_test.txt")]
    rows = [{"text": text} for text in texts if text.strip()][:count]
    file = table(folder, rows, {"text": "document"})
    return file, rows, config("nsmc", file)


def pairs(folder: Path, count: int) -> tuple[Path, list[Row], dict[str, Any]]:
    read = json.loads((DATA / "klue" / "klue-nli-v1.1_dev.json").read_text(encoding="utf-8"))
    rows = [{"text": row["premise"], "pair": row["hypothesis"]} for row in read][:count]
    file, columns = table(folder, rows, {"text": "premise", "pair": "hypothesis"}), ("premise", "hypothesis")
    labels = {"labels": ["entailment", "neutral", "contradiction"], "label_column": "gold_label"}
    return file, rows, config("classification", file, text_column=columns[0], pair_column=columns[1], **labels)


def multilabel(folder: Path, count: int) -> tuple[Path, list[Row], dict[str, Any]]:
    rows = [{"text": row["comments"]} for row in read_tsv(DATA / "hate-speech" / "train.tsv")][:count]
    file = table(folder, rows, {"text": "comments"})
    return file, rows, config("multilabel", file, text_column="comments", labels=["gender", "others", "hate"])


def regression(folder: Path, count: int) -> tuple[Path, list[Row], dict[str, Any]]:
    read = read_tsv(DATA / "korsts" / "sts-dev.tsv")
    rows = [{"text": row["sentence1"], "pair": row["sentence2"]} for row in read][:count]
    file = table(folder, rows, {"text": "sentence1", "pair": "sentence2"})
    return file, rows, config("regression", file, text_column="sentence1", pair_column="sentence2")


def tokens(folder: Path, count: int) -> tuple[Path, list[Row], dict[str, Any]]:
    lines = (DATA / "klue" / "klue-ner-v1.1_dev.tsv").read_text(encoding="utf-8").splitlines()
    texts, current = list[str](), ""
    for line in lines:  # a character a line, an empty line between sentences
        if "\t" in line and not line.startswith("##"):
            current += line[0]
        elif not line and current:
            texts.append(current)
            current = ""
    rows = [{"text": text} for text in texts][:count]
    file = table(folder, rows, {"text": "sentence"})
    return file, rows, config("tokens", file, text_column="sentence", labels=["PS", "LC", "OG", "DT", "TI", "QT"])


def korquad(folder: Path, count: int) -> tuple[Path, list[Row], dict[str, Any]]:
    read = json.loads((DATA / "korquad" / "KorQuAD_v1.0_dev.json").read_text(encoding="utf-8"))
    asked = [
        (paragraph["context"], question)
        for article in read["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ][:count]
    paragraphs = [{"context": context, "qas": [question]} for context, question in asked]
    file = folder / "questions.json"
    file.write_text(json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}), encoding="utf-8")
    rows = [{"context": context, "question": question["question"]} for context, question in asked]
    return file, rows, config("korquad", file)


CASES: dict[str, Callable[[Path, int], tuple[Path, list[Row], dict[str, Any]]]] = {
    case.__name__: case for case in (nsmc, pairs, multilabel, regression, tokens, korquad)
}

if __name__ == "__main__":
    main()
