"""The original's tokenizer and SQuAD pipeline, on one core: runs in the second environment (`make original`).

SKT's tokenizer is transformers' XLNetTokenizer with BERT's special tokens around the pieces, and padding to the right.
`--what check`, which the benchmark runs first, holds its ids against the 3,106 reference texts, and the features
against those of the first 120 questions. `--what tokenizer` calls it a review at a time, as the original does in its
`Dataset`, `--what batch` once for all of them. It is measured on fewer items than ours, so figures are to be taken per
item. Needs neither PyTorch nor anything of this repository.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import XLNetTokenizer
from transformers.data.metrics.squad_metrics import compute_predictions_logits
from transformers.data.processors.squad import SquadExample, SquadResult, squad_convert_examples_to_features

LENGTH, DOC_STRIDE, QUERY_LENGTH = 384, 128, 64
CALLS = 3


class OriginalTokenizer(XLNetTokenizer):
    """`[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, token types 0 and 1."""

    padding_side = "right"

    def __init__(self, vocab_file: str, **options: Any) -> None:
        names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
        names |= {"mask_token": "[MASK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
        super().__init__(vocab_file, additional_special_tokens=None, **{**names, **options})
        self._pad_token_type_id = 0

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> Any:
        first = [self.cls_token_id, *token_ids_0, self.sep_token_id]
        return first if token_ids_1 is None else [*first, *token_ids_1, self.sep_token_id]

    def create_token_type_ids_from_sequences(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> Any:
        second = [] if token_ids_1 is None else [1] * (len(token_ids_1) + 1)
        return [0] * (len(token_ids_0) + 2) + second

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        if already_has_special_tokens:
            special = set(self.all_special_ids)
            return [int(token in special) for token in token_ids_0]
        second = [] if token_ids_1 is None else [0] * len(token_ids_1) + [1]
        return [1, *[0] * len(token_ids_0), 1, *second]


def first_questions(file: Path, count: int, folder: Path) -> Path:
    """A file with the first questions of another one, so that the original pays for nothing else."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = paragraph["qas"][:count]
            count -= len(paragraph["qas"])
        article["paragraphs"] = [paragraph for paragraph in article["paragraphs"] if paragraph["qas"]]
    content["data"] = [article for article in content["data"] if article["paragraphs"]]
    first = folder / "first.json"
    first.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return first


def read_examples(file: Path) -> list[SquadExample]:
    """The questions of a file in the format of SQuAD."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return [
        SquadExample(
            qas_id=question["id"],
            question_text=question["question"],
            context_text=paragraph["context"],
            answer_text=question["answers"][0]["text"],
            start_position_character=question["answers"][0]["answer_start"],
            title=article["title"],
        )
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def features_of(examples: list[SquadExample], tokenizer: OriginalTokenizer, *, training: bool = True) -> list[Any]:
    """All windows of the examples."""
    return squad_convert_examples_to_features(
        examples, tokenizer, LENGTH, DOC_STRIDE, QUERY_LENGTH, is_training=training, threads=1, tqdm_enabled=False
    )


def differing_ids(tokenizer: OriginalTokenizer, golden: Path) -> int:
    """How many of the reference texts get other ids."""
    rows = [json.loads(line) for line in golden.read_text(encoding="utf-8").splitlines()]
    return sum(tokenizer(row["text"])["input_ids"] != row["ids"] for row in rows)


def differing_features(tokenizer: OriginalTokenizer, golden: Path, korquad: Path) -> list[str]:
    """Which arrays of the reference features come out differently."""
    with np.load(golden) as file:
        expected = dict(file)
    with tempfile.TemporaryDirectory() as folder:
        found = features_of(read_examples(first_questions(korquad, 120, Path(folder))), tokenizer)
    return [
        name
        for name, values in expected.items()
        if not np.array_equal(np.array([getattr(feature, name) for feature in found]), values)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["tokenizer", "batch", "features", "decoding", "check"], required=True)
    parser.add_argument("--shared", type=Path, required=True, help="folder of the data and of the reference figures")
    parser.add_argument("--reviews", type=Path, help="a TSV file")
    parser.add_argument("--items", type=int, default=5000, help="so many reviews or questions")
    given = parser.parse_args()
    tokenizer = OriginalTokenizer(str(given.shared / "models/skt-kobert-base-v1/spiece.model"))
    korquad = given.shared / "data/korquad/KorQuAD_v1.0_dev.json"

    if given.what == "check":
        ids = differing_ids(tokenizer, given.shared / "golden/skt_tokenizer.jsonl")
        features = differing_features(tokenizer, given.shared / "golden/korquad_features_skt.npz", korquad)
        print(json.dumps({"side": "original", "differing_texts": ids, "differing_features": features}))
        raise SystemExit(bool(ids or features))
    folder = tempfile.TemporaryDirectory()
    first = first_questions(korquad, given.items, Path(folder.name))
    if given.what in ("tokenizer", "batch"):
        rows = given.reviews.read_text(encoding="utf-8").removesuffix("\n").split("\n")[1 : given.items + 1]
        texts = [row.split("\t")[1] for row in rows]
        items = len(texts)

        def call() -> object:
            return tokenizer(texts) if given.what == "batch" else [tokenizer(text) for text in texts]
    elif given.what == "features":
        items = len(read_examples(first))

        def call() -> object:
            return features_of(read_examples(first), tokenizer)
    else:
        examples = read_examples(first)
        items = len(examples)
        features = features_of(examples, tokenizer, training=False)
        generator = np.random.default_rng(0)
        results = [
            SquadResult(feature.unique_id, *generator.normal(size=(2, len(feature.tokens))).tolist())
            for feature in features
        ]

        def call() -> object:
            return compute_predictions_logits(
                examples, features, results, 20, 30, False, None, None, None, False, False, 0.0, tokenizer
            )

    print(json.dumps({"side": "original", "items": items} | seconds_of(call)))


def seconds_of(call: Callable[[], object]) -> dict[str, float]:
    """The first call, and the median of those after it."""
    taken = []
    for _ in range(1 + CALLS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return {"seconds": statistics.median(taken[1:]), "first_seconds": taken[0]}


if __name__ == "__main__":
    main()
