"""KoBertTokenizer beside SentencePiece alone: `python benchmarks/bench_tokenizer.py [TEXTS.tsv [MODEL]]`.

Both encode the same 50,000 NSMC reviews with the same number of threads, in turn, in one process. Each line
shows the median of five rounds, and the median of the five ratios to SentencePiece.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sentencepiece

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kobert_core.tokenization import KoBertTokenizer  # noqa: E402

SHARED = ROOT.parent / "shared"
REVIEWS, ROUNDS = 50_000, 5


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="?", type=Path, default=SHARED / "data/nsmc/ratings_train.txt")
    parser.add_argument("model", nargs="?", type=Path, default=SHARED / "models/skt-kobert-base-v1")
    arguments = parser.parse_args()

    rows = arguments.texts.read_text(encoding="utf-8").split("\n")[1 : REVIEWS + 1]
    texts = [row.split("\t")[1] for row in rows if row]
    tokenizer = KoBertTokenizer.from_pretrained(arguments.model)
    model_file = next(arguments.model.glob("*.model"))
    alone = sentencepiece.SentencePieceProcessor(model_file=str(model_file))

    print(f"{len(texts):,} texts, {arguments.model.name}, median of {ROUNDS}")
    for threads in (1, 2):
        contenders: dict[str, Callable[[], object]] = {
            "SentencePiece": partial(alone.encode, texts, num_threads=threads),
            "encode_batch": partial(tokenizer.encode_batch, texts, num_threads=threads),
            "encode_batch_flat": partial(tokenizer.encode_batch_flat, texts, num_threads=threads),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, call in contenders.items():
                times[name].append(seconds(call))
        for name, taken in times.items():
            ratio = statistics.median(a / b for a, b in zip(taken, times["SentencePiece"], strict=True))
            print(f"{threads} thread(s)  {name:<18} {statistics.median(taken):.3f} s  ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
