"""Each family of encoders against transformers' own models, and features against the tokenizer alone.

    PYTHONPATH=. python benchmarks/parity.py [--write] [--rounds 9] [FAMILY …]

Tiny encoders of random weights, in float32 on the CPU, in training mode without dropout. Shown are the largest
differences; `--write` puts them into the tables of docs/encoders-parity.md and its Korean edition.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from kobert_core.config import TrainConfig
from kobert_core.families import IN_TRANSFORMERS
from kobert_core.pretrained import save_model_files, save_weights
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.tasks.base import Task
from kobert_core.tokenization import load_tokenizer
from tests.fixtures.encoders import FAMILIES as TINY
from tests.fixtures.encoders import NO_DROPOUT, classification, entities, make_encoder, questions
from tests.fixtures.tokenizers import TEXTS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PAGES = [ROOT / "docs/encoders-parity.md", ROOT / "docs/ko/encoders-parity.md"]
BOUNDS = {"logits": 1e-5, "gradients": 1e-5, "export": 1e-5, "pair": 1e-5, "long input": 1e-5}
"""The columns of the table, and what their numbers must be below."""
MOST_TIMES = 1.2
"""How long features may take, in times of what the tokenizer alone takes."""
WIDE = {"initializer_range": 0.2}
"""Weights so large that logits are of the size that training gives them."""
WITHOUT_TYPES = ("distilbert", "modernbert")
POSITIONS = 512
VOCABULARIES = {"e5-korean": "Unigram", "kcbert-base": "WordPiece", "koelectra": "WordPiece"}
REVIEWS = 20_000

Logits = list[torch.Tensor]
HEADS: dict[str, tuple[Any, Callable[..., TrainConfig]]] = {
    "nsmc.tsv": (AutoModelForSequenceClassification, classification),
    "korquad.json": (AutoModelForQuestionAnswering, questions),
    "tokens.tsv": (AutoModelForTokenClassification, entities),
}
"""By the data's file name: the class of the head, and what makes a config on that data."""


def logits_of(output: Any) -> Logits:
    return [output.logits] if hasattr(output, "logits") else [output.start_logits, output.end_logits]


def largest(ours: Logits, theirs: Logits) -> float:
    return max(float((one - other).detach().abs().max()) for one, other in zip(ours, theirs, strict=True))


def padded(task: Task[Any], rows: np.ndarray) -> dict[str, torch.Tensor]:
    tensors = task.train.batch(rows).padded(task.tokenizer.pad_id)
    types = [] if task.hf_config().model_type in WITHOUT_TYPES else ["token_type_ids"]
    return {name: tensors[name] for name in ("input_ids", "attention_mask", *types)}


def compare(task: Task[Any], auto_class: Any, rows: np.ndarray) -> dict[str, float]:
    """The largest differences of logits, and of gradients as a part of the largest one, to transformers' own model with
    the same weights on a padded batch."""
    torch.manual_seed(1)
    model = task.build_model().train()
    reference = auto_class.from_config(task.hf_config()).train()
    weights = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("boundary.")}
    reference.load_state_dict(weights)
    inputs = padded(task, rows)
    mask = slice(None) if auto_class is AutoModelForSequenceClassification else inputs["attention_mask"].bool()
    ours = logits_of(model(**task.train.batch(rows).inputs))
    if auto_class is AutoModelForQuestionAnswering:
        ours = [one[mask] for one in ours]
    theirs = [one[mask] for one in logits_of(reference(**inputs))]
    towards = [torch.randn_like(one) for one in ours]
    for logits in (ours, theirs):
        sum((one * to).sum() for one, to in zip(logits, towards, strict=True)).backward()
    own = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
    its = {key: each.grad for key, each in reference.named_parameters() if each.grad is not None}
    assert own.keys() == its.keys()
    scale = max(float(each.abs().max()) for each in its.values())
    gradients = max(float((own[key] - its[key]).abs().max()) for key in its) / scale
    return {"logits": largest(ours, theirs), "gradients": gradients}


def exported(task: Task[Any], auto_class: Any, folder: Path) -> tuple[Any, Any, Any]:
    """Our model, and what transformers loads of its export without code of ours: model and tokenizer."""
    torch.manual_seed(1)
    model = task.build_model().eval()
    save_model_files(folder, task)
    save_weights(folder, type(task), {key: each.clone() for key, each in model.state_dict().items()})
    loaded = auto_class.from_pretrained(folder, trust_remote_code=False).eval()
    return model, loaded, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def export(task: Task[Any], auto_class: Any, folder: Path) -> float:
    """The largest difference of the logits of an export, on a padded batch."""
    model, loaded, _ = exported(task, auto_class, folder)
    rows = np.arange(min(8, len(task.train)))
    inputs = padded(task, rows)
    mask = slice(None) if auto_class is AutoModelForSequenceClassification else inputs["attention_mask"].bool()
    with torch.no_grad():
        ours = logits_of(model(**task.train.batch(rows).inputs))
        if auto_class is AutoModelForQuestionAnswering:
            ours = [one[mask] for one in ours]
        return largest(ours, [one[mask] for one in logits_of(loaded(**inputs))])


def table_of(folder: Path, rows: list[tuple[str, ...]], **data: object) -> TrainConfig:
    """A config of a classifier on these texts or pairs, with the encoder of a folder."""
    file = folder.parent / f"{len(rows[0])}-{data['max_length']}.tsv"
    header = ["text", "pair"][: len(rows[0])]
    lines = ["\t".join([*row, str(number % 2)]) for number, row in enumerate(rows)]
    file.write_text("\n".join(["\t".join([*header, "label"]), *lines]) + "\n", encoding="utf-8")
    sections = {"data": {"train": file, "labels": ["0", "1"], "dev_fraction": 0.2, "max_leak": 1.0} | data}
    model = {"backbone": str(folder)} | NO_DROPOUT
    return parse_train_config({"task": "classification", "model": model, "train": {"epochs": 1}} | sections)


def pair(folder: Path) -> float:
    """Of a pair that the export's own tokenizer puts together: the largest difference of the logits to ours, which has
    to make the same tokens of it."""
    rows = [(TEXTS[number % 5], " ".join(TEXTS[: 1 + number % 4])) for number in range(20)]
    config = table_of(folder, rows, pair_column="pair", max_length=64)
    task = task_class("classification")(config)
    model, loaded, tokenizer = exported(task, AutoModelForSequenceClassification, folder.parent / "pair")
    differences = []
    for place in range(4):
        row = rows[task.train.rows[place]]
        given = tokenizer(*row, return_tensors="pt")
        inputs = task.train.batch(np.array([place])).inputs
        assert given["input_ids"][0].tolist() == inputs["input_ids"].tolist()
        with torch.no_grad():
            differences.append(largest([model(**inputs).logits], [loaded(**given).logits]))
    return max(differences)


def long_input(family: str, folder: Path) -> float:
    """The largest difference of the logits of texts as long as the encoder's positions, beside short ones."""
    more = 2 if TINY[family][1].get("max_position_embeddings") == 66 else 0  # positions begin after the padding
    make_encoder(family, folder, max_position_embeddings=POSITIONS + more, **WIDE)
    rows = [(" ".join(TEXTS * (60 if number % 2 else 1)),) for number in range(10)]
    task = task_class("classification")(table_of(folder, rows, max_length=POSITIONS))
    lengths = task.train.lengths
    assert lengths.max() == POSITIONS > lengths.min()
    chosen = np.array([lengths.argmax(), lengths.argmin()])
    return compare(task, AutoModelForSequenceClassification, chosen)["logits"]


def measure(family: str) -> dict[str, float]:
    """The numbers of a family, by their columns."""
    found: dict[str, list[float]] = {name: [] for name in BOUNDS}
    with tempfile.TemporaryDirectory() as made:
        folder = make_encoder(family, Path(made) / "hub", **WIDE)
        for name, (auto_class, config_of) in HEADS.items():
            config = config_of(folder, Path(made) / name)
            task = task_class(config.task)(config)
            for column, value in compare(task, auto_class, np.arange(min(12, len(task.train)))).items():
                found[column].append(value)
            found["export"].append(export(task, auto_class, Path(made) / f"export of {name}"))
        found["pair"].append(pair(folder))
        found["long input"].append(long_input(family, Path(made) / "long"))
    return {name: max(values) for name, values in found.items()}


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this process with all its threads, which others do not lengthen as they do wall time."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def tokenizer_folder(name: str, made: Path) -> Path:
    """Of an encoder, or of a bare vocabulary."""
    given = SHARED / "models" / name
    if not (given / "vocab.txt").is_file():
        return given
    folder = made / name
    folder.mkdir()
    shutil.copyfile(given / "vocab.txt", folder / "vocab.txt")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def features(folder: Path, texts: list[str], rounds: int) -> dict[str, float]:
    """Thousands of texts a second of the tokenizer alone, of whose encodings nobody reads anything, and of ours, which
    are arrays, and how many times as long ours takes."""
    ours, alone = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder).backend_tokenizer
    ways: dict[str, Callable[[], object]] = {
        "alone": lambda: alone.encode_batch_fast(texts, add_special_tokens=False),
        "ours": lambda: ours.encode_batch_flat(texts),
        "alone with offsets": lambda: alone.encode_batch(texts, add_special_tokens=False),
        "ours with offsets": lambda: ours.encode_batch_with_offsets(texts),
    }
    taken = [{name: seconds(work) for name, work in ways.items()} for _ in range(rounds)]
    median = {name: statistics.median(each[name] for each in taken) for name in ways}
    found = {name: len(texts) / value / 1000 for name, value in median.items()}
    for kind in ("", " with offsets"):
        found[f"times{kind}"] = statistics.median(each[f"ours{kind}"] / each[f"alone{kind}"] for each in taken)
    return found


def parity_rows(families: list[str]) -> Iterator[str]:
    for family in families:
        found = measure(family)
        yield f"| `{family}` | " + " | ".join(f"{found[column]:.1e}" for column in BOUNDS) + " |"


def feature_rows(rounds: int) -> Iterator[str]:
    texts = [line.split("\t")[1] for line in (SHARED / "data/nsmc/ratings_train.txt").open(encoding="utf-8")]
    columns = [f"{side}{kind}" for kind in ("", " with offsets") for side in ("alone", "ours", "times")]
    with tempfile.TemporaryDirectory() as made:
        for name, kind in VOCABULARIES.items():
            found: Mapping[str, float] = features(tokenizer_folder(name, Path(made)), texts[1 : REVIEWS + 1], rounds)
            cells = [f"{found[each]:.2f}" if each.startswith("times") else f"{found[each]:.1f}" for each in columns]
            yield f"| `{name}`, {kind} | {' | '.join(cells)} |"


def write(page: Path, rows: list[str]) -> None:
    """Put rows in the place of those of a page that begin with the same cell."""
    named = {row.split("|")[1]: row for row in rows}
    lines = page.read_text(encoding="utf-8").split("\n")
    found = [line.split("|")[1] if line.startswith("|") else "" for line in lines]
    assert set(named) <= set(found), f"{page} lacks {set(named) - set(found)}"
    page.write_text("\n".join(named.get(cell, line) for cell, line in zip(found, lines, strict=True)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=IN_TRANSFORMERS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in (*parity_rows(list(given.families)), *feature_rows(given.rounds)):
        print(row, flush=True)
        rows.append(row)
    if given.write:
        for page in PAGES:
            write(page, rows)


if __name__ == "__main__":
    main()
