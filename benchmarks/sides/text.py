"""Texts to tokens on one thread: ours, or SentencePiece alone.

`--what tokenizer`: 50,000 reviews, already in memory, to ids. `--what features`: KorQuAD's dev file, read from disk, to
what a run keeps of all windows (384 tokens, stride 128); with `--padded`, to the padded features of each, which a run
puts together as it goes. `--what decoding`: random logits to answers, n-best 20, at most 30 pieces. SentencePiece alone
encodes the same texts to ids, each once, and does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from common import KORQUAD, KORQUAD_LENGTH, TOKENIZER, give, korquad_windows, model_folder, read_reviews, reviews_file

CALLS = 3
PART = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["tokenizer", "features", "decoding"], required=True)
    parser.add_argument("--alone", action="store_true", help="SentencePiece alone")
    parser.add_argument("--padded", action="store_true", help="put every window together and pad it")
    parser.add_argument("--json", action="store_true", help="our tokenizer.json by the library `tokenizers`")
    parser.add_argument("--reviews", type=int, default=50_000)
    given = parser.parse_args()

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import sentencepiece
    from tokenizers import Tokenizer

    from kobert_core.tasks.question_answering.decoding import decode, texts
    from kobert_core.tasks.question_answering.squad import read_squad
    from kobert_core.tokenization import SentencePieceTokenizer

    alone = sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER / "spiece.model"))
    tokenizer = SentencePieceTokenizer.from_pretrained(TOKENIZER)
    if given.what == "tokenizer":
        reviews, _ = read_reviews(reviews_file(given.reviews))
        items = len(reviews)
        call = partial(alone.encode if given.alone else tokenizer.encode_batch_flat, reviews, num_threads=1)
        if given.json:
            exported = Tokenizer.from_file(str(model_folder("nsmc", "tiny") / "tokenizer.json"))
            call = partial(exported.encode_batch_fast, reviews)
    elif given.what == "features":
        squad = read_squad(KORQUAD)
        items = len(squad.questions)
        every = squad.contexts + [question.text for question in squad.questions]
        ours = all_features if given.padded else partial(korquad_windows, KORQUAD)
        call = partial(alone.encode, every, num_threads=1) if given.alone else ours
    else:
        windows = korquad_windows(KORQUAD)
        items = len(windows.questions)
        outputs = random_outputs(len(windows))

        def call() -> object:
            return texts(windows, decode(windows, outputs))

    give({"side": "SentencePiece" if given.alone else "ours", "items": items} | seconds_of(call))


def all_features() -> int:
    """The features of every window, in parts: padded arrays of ids, masks, positions and offsets."""
    import numpy as np

    windows = korquad_windows(KORQUAD)
    parts = [np.arange(start, min(start + PART, len(windows))) for start in range(0, len(windows), PART)]
    return sum(windows.features(part)["input_ids"].size for part in parts)


def random_outputs(windows: int) -> dict[str, Any]:
    """Logits and trims of so many windows."""
    import numpy as np

    generator = np.random.default_rng(0)
    shape = (windows, KORQUAD_LENGTH)
    return {
        "start_logits": generator.normal(size=shape).astype(np.float32),
        "end_logits": generator.normal(size=shape).astype(np.float32),
        "trim_start": generator.integers(0, 2, shape).astype(np.uint8),
        "trim_end": generator.integers(0, 4, shape).astype(np.uint8),
    }


def seconds_of(call: Callable[[], object]) -> dict[str, float]:
    """The first call, and the median of those after it: caches and memory are then warm, as on the other sides."""
    taken = []
    for _ in range(1 + CALLS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return {"seconds": statistics.median(taken[1:]), "first_seconds": taken[0]}


if __name__ == "__main__":
    main()
