"""The limit: nothing but the matrix products of one epoch, on real tokens only, without any padding.

For each step of ours its examples' real tokens: forward and both backward products of every linear layer, and of the
attention's two products at each example's own length. Weights, activations and results are made beforehand and written
in place, so that no time goes into anything else. `--needed` leaves out what no number of a classifier depends on: in
the last layer only `[CLS]` goes on, so that keys and values are needed of all tokens, and all else of `[CLS]` alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from common import SEED, SHAPES, Size, give, korquad_windows, model_folder, training_arguments, training_file


def steps_of(task: str, shape: str, examples: int, batch: int) -> list[np.ndarray]:
    """The lengths of the examples of each step of the first epoch, shape (examples of the step,)."""
    from kobert_core.data.batching import StepOrder
    from kobert_core.tasks.labelled_texts.examples import TextExamples, tokenize
    from kobert_core.tokenization import SentencePieceTokenizer

    file = training_file(task, examples)
    if task == "korquad":
        lengths = korquad_windows(file).lengths
    else:
        from common import NSMC_LENGTH, read_reviews

        texts, labels = read_reviews(file)
        tokenizer = SentencePieceTokenizer.from_pretrained(model_folder(task, shape))
        arrays = tokenize(texts, np.array(labels), tokenizer)
        lengths = TextExamples(**arrays, tokenizer=tokenizer, max_length=NSMC_LENGTH).lengths
    order = StepOrder(lengths, examples_per_step=batch, seed=SEED)
    return [np.asarray(lengths[order.examples_of(number)]) for number in range(order.steps_per_epoch)]


class Products:
    """The products of a BERT encoder with a head, and how many floating point operations they are."""

    def __init__(self, shape: str, task: str, *, needed: bool, rows: int, attention: int) -> None:
        """Weights of one model and room for the results.

        Args:
            shape: of the model.
            task: whose head it has.
            needed: leave out what no number depends on.
            rows: most tokens of a step.
            attention: largest sum of squared lengths of a step.
        """
        sizes = SHAPES[shape]
        self.hidden, self.inner = sizes["hidden_size"], sizes["intermediate_size"]
        self.layers, self.heads = sizes["num_hidden_layers"], sizes["num_attention_heads"]
        self.task, self.needed, self.flops = task, needed, 0
        self.weights = [
            [torch.randn(out, into) for out, into in (*[(self.hidden, self.hidden)] * 4, *self._feed_forward())]
            for _ in range(self.layers)
        ]
        self.pooler, self.head = torch.randn(self.hidden, self.hidden), torch.randn(2, self.hidden)
        self.gradients = {id(weight): torch.empty_like(weight) for weight in self._all_weights()}
        widest = max(self.hidden, self.inner)
        self.left, self.right = torch.randn(rows * widest), torch.randn(rows * widest)
        self.result = torch.empty(rows * widest)
        self.query, self.key, self.mixed = (torch.randn(rows * self.hidden) for _ in range(3))
        self.scores, self.weighted = torch.empty(attention * self.heads), torch.randn(attention * self.heads)

    def update(self, lengths: np.ndarray) -> None:
        """All products of one step."""
        tokens, examples = int(lengths.sum()), len(lengths)
        for number, (query, key, value, out, up, down) in enumerate(self.weights):
            last = self.needed and number == self.layers - 1
            rows = examples if last else tokens  # what goes on from here
            for weight, count in ((query, rows), (key, tokens), (value, tokens), (out, rows), (up, rows), (down, rows)):
                self._linear(weight, count)
            for length, same in zip(*np.unique(lengths, return_counts=True), strict=True):
                self._attention(int(same), 1 if last else int(length), int(length))
        if self.task == "nsmc":
            self._linear(self.pooler, examples)
        self._linear(self.head, examples if self.task == "nsmc" else tokens)

    def _feed_forward(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.inner, self.hidden), (self.hidden, self.inner)

    def _all_weights(self) -> Iterator[torch.Tensor]:
        for layer in self.weights:
            yield from layer
        yield from (self.pooler, self.head)

    def _linear(self, weight: torch.Tensor, rows: int) -> None:
        """Forward, the gradient of the input, the gradient of the weight."""
        out, into = weight.shape
        x, g = _view(self.left, rows, into), _view(self.right, rows, out)
        torch.mm(x, weight.t(), out=_view(self.result, rows, out))
        torch.mm(g, weight, out=_view(self.result, rows, into))
        torch.mm(g.t(), x, out=self.gradients[id(weight)])
        self.flops += 3 * 2 * rows * out * into

    def _attention(self, examples: int, queries: int, keys: int) -> None:
        """Scores and weighted values with their gradients, of examples of one length."""
        batch, size = examples * self.heads, self.hidden // self.heads
        q, k, v = (
            _view(buffer, batch, rows, size)
            for buffer, rows in ((self.query, queries), (self.key, keys), (self.mixed, keys))
        )
        p, s = _view(self.weighted, batch, queries, keys), _view(self.scores, batch, queries, keys)
        over_queries, over_keys = _view(self.result, batch, queries, size), _view(self.result, batch, keys, size)
        torch.bmm(q, k.transpose(1, 2), out=s)
        torch.bmm(p, v, out=over_queries)
        torch.bmm(p.transpose(1, 2), q, out=over_keys)  # gradient of the values
        torch.bmm(q, v.transpose(1, 2), out=s)  # of the weights
        torch.bmm(p, k, out=over_queries)  # of the queries
        torch.bmm(p.transpose(1, 2), q, out=over_keys)  # of the keys
        self.flops += 6 * 2 * batch * queries * keys * size


def _view(buffer: torch.Tensor, *shape: int) -> torch.Tensor:
    return buffer[: int(np.prod(shape))].view(shape)


def run(task: str, shape: str, examples: int, batch: int, *, needed: bool) -> dict[str, Any]:
    """The products of one epoch."""
    steps = steps_of(task, shape, examples, batch)
    products = Products(
        shape,
        task,
        needed=needed,
        rows=max(int(lengths.sum()) for lengths in steps),
        attention=max(int((lengths.astype(np.int64) ** 2).sum()) for lengths in steps),
    )
    products.update(max(steps, key=lambda lengths: int(lengths.sum())))  # all pages are there, all code is warm
    products.flops = 0
    began = time.perf_counter()
    for lengths in steps:
        products.update(lengths)
    seconds = time.perf_counter() - began
    return {
        "examples": sum(map(len, steps)),
        "tokens": sum(int(lengths.sum()) for lengths in steps),
        "seconds": seconds,
        "gflop": products.flops / 1e9,
        "gflop_per_second": products.flops / 1e9 / seconds,
    }


def main() -> None:
    given = training_arguments(
        __doc__, ("--needed", {"action": "store_true", "help": "without what no number depends on"})
    )
    size: Size = given.size
    with torch.inference_mode():
        figures = run(given.task, given.shape, size.examples, size.batch, needed=given.needed)
    give({"side": "matrix products, needed" if given.needed else "matrix products"} | figures)


if __name__ == "__main__":
    main()
