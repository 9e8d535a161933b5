"""The examples of docs/tasks.md are studies that are read, each on a file as it describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from kobert_core.tasks import SPECS, task_class
from tests.fixtures.commands import ROOT
from tuning.study import load_study

PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TEXTS = ["정말 좋았다", "별로였다", "다시 보고 싶다", "지루했다"]
REST = """
schema_version: 1
name: example
model: {init: random, config: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}, tokenizer_vocab_size: 60}
parameters:
  optim.backbone_lr: {distribution: log_uniform, min: 1e-5, max: 1e-4}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the files that the page names."""

    def table(name: str, columns: str, *rows: list[str]) -> None:
        separator = "," if name.endswith(".csv") else "\t"
        lines = [columns.replace(" ", separator), *(separator.join(row) for row in rows * 5)]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def objects(name: str, *rows: dict[str, object]) -> None:
        lines = [json.dumps(row | {"guid": number}, ensure_ascii=False) for number, row in enumerate(rows * 5)]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    table(
        "topics.tsv",
        "title topic",
        *([text, "정치" if "다" in text[-1:] else "경제"] for text in TEXTS),
        ["그냥", "경제"],
    )
    table("sts.tsv", "id sentence1 sentence2 score", *(["1", text, "좋았다", str(len(text) / 2)] for text in TEXTS))
    table(
        "columns.csv",
        "comment 욕설 차별 혐오",
        *([text, "1", "0", "false"] for text in TEXTS),
        ["그냥", "0", "1", "True"],
    )
    table("hate.tsv", "comments bias hate", *([text, "gender", "none"] for text in TEXTS), ["그냥", "none", "hate"])
    pairs = [{"premise": text, "hypothesis": "좋았다", "gold_label": "neutral"} for text in TEXTS]
    objects("nli.jsonl", *pairs, {"premise": "좋다", "hypothesis": "좋다", "gold_label": "entailment"})
    objects("comments.jsonl", *({"comment": text, "kinds": ["욕설", "차별"][: len(text) % 3]} for text in TEXTS))
    return tmp_path


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("train: ")[1].split()[0])
def test_an_example_reads_its_file(example: str, data: Path) -> None:
    (data / "study.yaml").write_text(example + REST, encoding="utf-8")
    study = load_study(data / "study.yaml", ["data.max_bad_fraction=0.5"])
    task = task_class(study.task)(study.train_config(study.example_values()))
    assert len(task.train) and len(task.dev) and not task.bad_rows(task.data.train)


def test_the_table_names_all_tasks_and_what_they_report() -> None:
    rows = re.findall(r"^\| (`.*?)\|(.*)$", PAGE.split("## Classification")[0], re.MULTILINE)
    named = {name: rest for names, rest in rows for name in re.findall(r"`(\w+)`", names)}
    assert named.keys() - {"task"} == SPECS.keys()
    for name in ("classification", "multilabel", "regression", "qa"):
        spec = SPECS[name]
        assert re.findall(r"`(eval/\w+)`", named[name])[0] == spec.objective.metric
        assert set(re.findall(r"`(eval/\w+)`", named[name])) == set(spec.metrics)


def test_the_studies_that_it_names_are_there() -> None:
    yaml = YAML(typ="safe")
    for name in re.findall(r"^\| `(search_spaces/[\w-]+\.yaml)`", PAGE, re.MULTILINE):
        assert yaml.load((ROOT / name).read_text(encoding="utf-8"))["task"] in SPECS
