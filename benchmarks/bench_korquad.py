"""KorQuAD's features beside SentencePiece alone, and decoding: `python benchmarks/bench_korquad.py [FILE] [MODEL]`.

Features: from the parsed JSON file to the arrays of all windows (length 384, stride 128), beside
`SentencePieceProcessor.encode` (ids only, one thread) of each context and each question once, in turn, in one process.
Decoding: from logits to texts, n-best 20, answers of at most 30 pieces. All on one thread; the median of the rounds.
The original pipeline (transformers 4.46, SKT's tokenizer) made 150 features and 1,530 answers a second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentencepiece

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kobert_core.data.squad import Squad, read_squad  # noqa: E402
from kobert_core.data.windows import Lengths, WindowExamples, piece_arrays, text_arrays, window_arrays  # noqa: E402
from kobert_core.decoding import Outputs, decode, texts  # noqa: E402
from kobert_core.tokenization import KoBertTokenizer  # noqa: E402

SHARED = ROOT.parent / "shared"
ROUNDS = 7
ORIGINAL_FEATURES, ORIGINAL_DECODING = 150, 1530  # questions a second


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def features(squad: Squad, tokenizer: KoBertTokenizer, lengths: Lengths) -> WindowExamples:
    arrays = text_arrays(squad)
    pieces = piece_arrays(arrays, tokenizer)
    windows = window_arrays(arrays, pieces, lengths)
    return WindowExamples(arrays, pieces, windows, tokenizer, max_query_length=lengths.max_query_length)


def random_outputs(examples: WindowExamples) -> Outputs:
    generator = np.random.default_rng(0)
    shape = (len(examples), int(examples.lengths.max()))
    return {
        "start_logits": generator.normal(size=shape).astype(np.float32),
        "end_logits": generator.normal(size=shape).astype(np.float32),
        "trim_start": generator.integers(0, 2, shape).astype(np.uint8),
        "trim_end": generator.integers(0, 4, shape).astype(np.uint8),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=SHARED / "data/korquad/KorQuAD_v1.0_dev.json")
    parser.add_argument("model", nargs="?", type=Path, default=SHARED / "models/skt-kobert-base-v1")
    arguments = parser.parse_args()

    squad = read_squad(arguments.file)
    questions = [question.text for question in squad.questions]
    alone = sentencepiece.SentencePieceProcessor(model_file=str(next(arguments.model.glob("*.model"))))
    tokenizer = KoBertTokenizer.from_pretrained(arguments.model)
    examples = features(squad, tokenizer, Lengths())
    outputs = random_outputs(examples)

    base, ours, read, found = [], [], [], []
    for _ in range(ROUNDS):
        base.append(seconds(lambda: alone.encode(squad.contexts + questions, num_threads=1)))
        ours.append(seconds(lambda: features(squad, tokenizer, Lengths())))
        read.append(seconds(lambda: read_squad(arguments.file)))
        found.append(seconds(lambda: texts(examples, decode(examples, outputs))))
    ratio = statistics.median(b / a for a, b in zip(base, ours, strict=True))
    with_reading = statistics.median((b + c) / a for a, b, c in zip(base, ours, read, strict=True))
    rate, decoded = len(questions) / statistics.median(ours), len(questions) / statistics.median(found)

    print(f"{len(questions):,} questions on {len(squad.contexts):,} contexts, {len(examples):,} windows, one thread")
    print(f"SentencePiece alone      {statistics.median(base):7.3f} s")
    print(f"features                 {statistics.median(ours):7.3f} s   {ratio:5.2f} times SentencePiece alone")
    print(f"  with reading the JSON  {'':9}   {with_reading:5.2f} times")
    print(f"  questions a second     {rate:9,.0f}   {rate / ORIGINAL_FEATURES:5.0f} times the original's")
    print(f"decoding, a second       {decoded:9,.0f}   {decoded / ORIGINAL_DECODING:5.1f} times the original's")


if __name__ == "__main__":
    main()
