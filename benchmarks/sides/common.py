"""What all sides share: the same data, the same starting weights, the same settings, and how a side gives its figures.

A side is a process of its own: it prints one JSON object as its last line. What it needs is made on first use in
`benchmarks/.results/`, which is not part of the repository.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
WORK = ROOT / "benchmarks" / ".results"
TOKENIZER = SHARED / "models/skt-kobert-base-v1"
NSMC = SHARED / "data/nsmc/ratings_train.txt"
KORQUAD = SHARED / "data/korquad/KorQuAD_v1.0_dev.json"

THREADS = 2
SEED = 0
LEARNING_RATE, WEIGHT_DECAY, WARMUP_RATIO, MAX_GRAD_NORM = 5e-5, 0.01, 0.1, 1.0
NSMC_LENGTH = 128
KORQUAD_LENGTH, DOC_STRIDE, QUERY_LENGTH = 384, 128, 64
SWEEP_TRIALS, SWEEP_REVIEWS, SWEEP_DEV, SWEEP_EPOCHS, SWEEP_BATCH = 8, 4000, 1000, 4, 32
LEARNING_RATES, WARMUP_RATIOS = (1e-4, 3e-3), (0.0, 0.3)

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "real": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}


class Size(NamedTuple):
    """How much is trained: one epoch over `examples`, after one over the first `warmup` of them."""

    examples: int
    warmup: int
    batch: int


SIZES = {
    ("nsmc", "tiny"): Size(4000, 320, 32),
    ("nsmc", "real"): Size(64, 8, 32),
    ("korquad", "tiny"): Size(320, 40, 8),
    ("korquad", "real"): Size(16, 2, 8),
}


def training_arguments(description: str | None, *extra: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """The command line of a side that trains; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["nsmc", "korquad"], required=True)
    parser.add_argument("--shape", choices=list(SHAPES), required=True)
    parser.add_argument("--examples", type=int, help="fewer than the benchmark takes, for a quick look")
    for name, options in extra:
        parser.add_argument(name, **options)
    given = parser.parse_args()
    size = SIZES[given.task, given.shape]
    given.size = size._replace(examples=given.examples or size.examples)
    set_threads()
    return given


def set_threads() -> None:
    """The same number of threads for every side; MKL and OpenMP were told by the environment."""
    import torch

    torch.set_num_threads(THREADS)


def give(figures: Mapping[str, Any]) -> None:
    """Print the figures of a side."""
    print(_as_json(figures), flush=True)


def model_folder(task: str, shape: str) -> Path:
    """A HuggingFace folder with a model of random weights, the same for all sides, and KoBERT's tokenizer."""
    folder = WORK / "models" / f"{task}-{shape}"
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoConfig, BertForQuestionAnswering, BertForSequenceClassification

    from kobert_core.tokenization import SentencePieceTokenizer

    config = AutoConfig.from_pretrained(TOKENIZER)
    config.update(SHAPES[shape] | {"num_labels": 2})
    torch.manual_seed(SEED)
    kind = BertForSequenceClassification if task == "nsmc" else BertForQuestionAnswering
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    kind(config).save_pretrained(made)
    SentencePieceTokenizer.from_pretrained(TOKENIZER).save_pretrained(made)
    os.replace(made, folder)
    return folder


def search_points(seed: int, trials: int) -> list[dict[str, float]]:
    """Random points of the space of the sweeps, one a trial: learning rates on a logarithmic scale, and warmup."""
    generator = random.Random(seed)

    def learning_rate() -> float:
        return math.exp(generator.uniform(*map(math.log, LEARNING_RATES)))

    return [
        {
            "backbone_lr": learning_rate(),
            "classifier_lr": learning_rate(),
            "warmup_ratio": generator.uniform(*WARMUP_RATIOS),
        }
        for _ in range(trials)
    ]


def sweep_arguments(description: str | None) -> argparse.Namespace:
    """The command line of a side that searches."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED, help="of the trials' values, the search and the training")
    parser.add_argument("--trials", type=int, default=SWEEP_TRIALS)
    parser.add_argument("--reviews", type=int, default=SWEEP_REVIEWS)
    return parser.parse_args()


def reviews_file(count: int, *, skip: int = 0) -> Path:
    """A TSV file of `count` NSMC reviews, drawn at random but always the same; `skip` so many to have others."""
    file = WORK / "data" / f"nsmc-{skip}-{count}.tsv"
    if file.is_file():
        return file
    header, *rows = NSMC.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows = [row for row in rows if row.split("\t")[1].strip()]
    random.Random(SEED).shuffle(rows)
    return _write(file, "\n".join([header, *rows[skip : skip + count]]) + "\n")


def read_reviews(file: Path) -> tuple[list[str], list[int]]:
    """Texts and labels of a TSV file."""
    rows = [row.split("\t") for row in file.read_text(encoding="utf-8").removesuffix("\n").split("\n")[1:]]
    return [row[1] for row in rows], [int(row[2]) for row in rows]


def questions_file(windows: int) -> Path:
    """A KorQuAD file whose questions, one a paragraph, have so many windows."""
    file = WORK / "data" / f"korquad-{windows}.json"
    if file.is_file():
        return file
    content = json.loads(KORQUAD.read_text(encoding="utf-8"))
    paragraphs = [
        {"title": article["title"], "paragraphs": [paragraph | {"qas": paragraph["qas"][:1]}]}
        for article in content["data"]
        for paragraph in article["paragraphs"]
        if paragraph["qas"]
    ]
    random.Random(SEED).shuffle(paragraphs)
    every = _write(file.with_name("korquad-every-paragraph.json"), _as_json(content | {"data": paragraphs}))
    examples = korquad_windows(every)
    own = dict(zip(examples.ids, (examples.window_starts[1:] - examples.window_starts[:-1]).tolist(), strict=True))
    chosen, total = [], 0
    for paragraph in paragraphs:
        count = own.get(paragraph["paragraphs"][0]["qas"][0]["id"])
        if count and total + count <= windows:
            chosen.append(paragraph)
            total += count
    return _write(file, _as_json(content | {"data": chosen}))


def korquad_windows(file: Path) -> Any:
    """The windows of all questions of a file, by the product: as transformers' SQuAD processor cuts them."""
    from kobert_core.tasks.question_answering.squad import read_squad
    from kobert_core.tasks.question_answering.windows import (
        Lengths,
        WindowExamples,
        piece_arrays,
        text_arrays,
        window_arrays,
    )
    from kobert_core.tokenization import SentencePieceTokenizer

    tokenizer, lengths = (
        SentencePieceTokenizer.from_pretrained(TOKENIZER),
        Lengths(KORQUAD_LENGTH, DOC_STRIDE, QUERY_LENGTH),
    )
    arrays = text_arrays(read_squad(file))
    pieces = piece_arrays(arrays, tokenizer)
    windows = window_arrays(arrays, pieces, lengths)
    return WindowExamples(arrays, pieces, windows, tokenizer, max_query_length=QUERY_LENGTH)


def features_as_lists(file: Path) -> list[dict[str, Any]]:
    """The windows of a file as plain lists without padding, for loops that pad themselves."""
    import numpy as np

    windows = korquad_windows(file)
    names = ("input_ids", "token_type_ids", "attention_mask")
    features = []
    for number in range(len(windows)):
        batch = windows.batch(np.array([number])).padded()
        feature: dict[str, Any] = {name: batch[name][0].tolist() for name in names}
        features.append(feature | {name: int(batch[name][0]) for name in ("start_positions", "end_positions")})
    return features


def training_file(task: str, examples: int) -> Path:
    """The file that a side trains on."""
    return reviews_file(examples) if task == "nsmc" else questions_file(examples)


def empty_folder(name: str) -> Path:
    """A folder in `.results/` with nothing in it."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(dict(content), ensure_ascii=False)


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".new")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)
    return file
