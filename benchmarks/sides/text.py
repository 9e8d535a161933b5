"""Texts to tokens on one thread: ours, or SentencePiece alone.

`--what tokenizer`: 50,000 reviews, already in memory, to ids. `--what features`: KorQuAD's dev file, read from disk, to
the arrays of all windows (384 tokens, stride 128). `--what decoding`: random logits to answers, n-best 20, at most 30
pieces. SentencePiece alone encodes the same texts to ids, each once, and does nothing else.
"""

from __future__ import annotations

import argparse
import time

from common import KORQUAD, KORQUAD_LENGTH, TOKENIZER, give, korquad_windows, read_reviews, reviews_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["tokenizer", "features", "decoding"], required=True)
    parser.add_argument("--alone", action="store_true", help="SentencePiece alone")
    parser.add_argument("--reviews", type=int, default=50_000)
    given = parser.parse_args()

    import numpy as np
    import sentencepiece

    from kobert_core.data.squad import read_squad
    from kobert_core.decoding import decode, texts
    from kobert_core.tokenization import KoBertTokenizer

    alone = sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER / "spiece.model"))
    tokenizer = KoBertTokenizer.from_pretrained(TOKENIZER)
    few, _ = read_reviews(reviews_file(320))
    alone.encode(few, num_threads=1)
    tokenizer.encode_batch_flat(few, num_threads=1)

    if given.what == "tokenizer":
        reviews, _ = read_reviews(reviews_file(given.reviews))
        began = time.perf_counter()
        if given.alone:
            alone.encode(reviews, num_threads=1)
        else:
            tokenizer.encode_batch_flat(reviews, num_threads=1)
        items = len(reviews)
    elif given.what == "features" and given.alone:
        squad = read_squad(KORQUAD)
        questions = [question.text for question in squad.questions]
        began = time.perf_counter()
        alone.encode(squad.contexts + questions, num_threads=1)
        items = len(questions)
    elif given.what == "features":
        began = time.perf_counter()
        items = len(korquad_windows(KORQUAD).questions)
    else:
        windows = korquad_windows(KORQUAD)
        generator = np.random.default_rng(0)
        shape = (len(windows), KORQUAD_LENGTH)
        outputs = {
            "start_logits": generator.normal(size=shape).astype(np.float32),
            "end_logits": generator.normal(size=shape).astype(np.float32),
            "trim_start": generator.integers(0, 2, shape).astype(np.uint8),
            "trim_end": generator.integers(0, 4, shape).astype(np.uint8),
        }
        began = time.perf_counter()
        items = len(texts(windows, decode(windows, outputs)))
    seconds = time.perf_counter() - began
    give({"side": "SentencePiece" if given.alone else "ours", "items": items, "seconds": seconds})


if __name__ == "__main__":
    main()
