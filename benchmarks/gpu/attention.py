"""Ways of attention without padding, against each other: right first, then how fast.

Forward and backward of one layer's attention, bf16, 12 heads of 64, over real lengths. What is timed begins with what
a packed encoder has, tensors of shape (tokens, heads, size), and ends with their gradients; the padded way is given
padded tensors, as a padded model would have them. `wall` is from call to call, with what the host needs to launch;
`gpu` is a replay of a CUDA graph.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from common import SEED
from results import Bar, Results
from setting import clean_up, config_of, device, on_gpu, shape, task_of, wait
from torch.nn import functional as F

from kobert_core.data.batching import StepOrder
from kobert_core.packed.attention import packed_attention

HEADS, SIZE, DROPOUT = 12, 64, 0.1
CASES = (("nsmc", 32), ("korquad", 32), ("nsmc", 256))
WRONG = 3
"""So many times the error of padded attention is more than rounding."""


class Texts(NamedTuple):
    """Queries, keys and values of sequences that lie end to end, and the gradient of what comes out: (tokens, heads,
    size); where each sequence begins, and how long it is."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    starts: torch.Tensor
    lengths: list[int]


Way = Callable[[Texts], torch.Tensor]


def attention(results: Results, tiny: bool) -> None:
    """All ways but those that are compiled."""
    rows: dict[str, list[float | str]] = {}
    for task, batch in CASES[:: 2 if tiny else 1]:
        lengths = lengths_of(task, batch // (8 if tiny else 1))
        compare(results, rows, f"{task}, {batch}", lengths, ways(), tiny)
    table(results, rows, tiny)
    with results.check("dropout"):
        dropout(results)


def flex(results: Results, tiny: bool) -> None:
    """FlexAttention with a mask of blocks, compiled for each shape."""
    if not on_gpu():
        results.missing("FlexAttention", "no GPU: its backward pass runs on CUDA alone")
        return
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    rows: dict[str, list[float | str]] = {}
    for task, batch in CASES[:2]:
        lengths = lengths_of(task, batch)
        text_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device())

        def within(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor, text_of: torch.Tensor = text_of) -> torch.Tensor:
            return text_of[q] == text_of[k]

        def mask(tokens: int = sum(lengths), within: Any = within) -> Any:
            return create_block_mask(within, None, None, tokens, tokens, device=device())

        compiled = torch.compile(flex_attention, dynamic=False)
        began = time.perf_counter()
        compare(results, rows, f"{task}, {batch}", lengths, {"flex": partial(by_flex, compiled, mask())}, tiny)
        results.tell(f"flex, {task}, {batch}: compiled and measured in", time.perf_counter() - began, unit="s")
        results.tell(f"flex, {task}, {batch}: its mask alone", microseconds(mask), unit="us")
    table(results, rows, tiny)


def by_flex(compiled: Any, mask: Any, texts: Texts) -> torch.Tensor:
    parts = (part.transpose(0, 1)[None] for part in (texts.query, texts.key, texts.value))
    out: torch.Tensor = compiled(*parts, block_mask=mask)
    return out[0].transpose(0, 1)


def lengths_of(task: str, batch: int) -> list[int]:
    """The lengths of the examples of one step as ours draws them, one of median size, sorted."""
    config = config_of(task, 8192 if task == "nsmc" else 2000, shape(tiny=True))
    lengths = task_of(config).train.lengths
    order = StepOrder(lengths, examples_per_step=batch, seed=SEED)
    steps = sorted((np.sort(lengths[order.examples_of(n)]) for n in range(order.steps_per_epoch - 1)), key=np.sum)
    chosen: list[int] = steps[len(steps) // 2].tolist()
    return chosen


def texts_of(lengths: list[int], dtype: torch.dtype = torch.bfloat16) -> Texts:
    """Random ones."""
    torch.manual_seed(SEED)
    shape_of = (sum(lengths), HEADS, SIZE)
    query, key, value, gradient = (torch.randn(shape_of, device=device()).to(dtype) for _ in range(4))
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device())
    return Texts(*(part.requires_grad_() for part in (query, key, value)), gradient, starts, lengths)


def ways() -> dict[str, Way]:
    """All that this PyTorch has, by name."""
    found: dict[str, Way] = {
        "ours": by_ours,
        f"ours, dropout {DROPOUT}": partial(by_ours, dropout=DROPOUT),
        "jagged": by_jagged,
        f"jagged, dropout {DROPOUT}": partial(by_jagged, dropout=DROPOUT),
        "varlen": by_varlen,
        "loop": by_loop,
        f"loop, dropout {DROPOUT}": partial(by_loop, dropout=DROPOUT),
        "flash-attn": by_flash_attn,
        f"flash-attn, dropout {DROPOUT}": partial(by_flash_attn, dropout=DROPOUT),
    }
    return found


def by_ours(texts: Texts, dropout: float = 0.0) -> torch.Tensor:
    """What the product takes: FlashAttention as PyTorch has it."""
    parts = [part.transpose(0, 1).unsqueeze(0) for part in (texts.query, texts.key, texts.value)]
    starts, most, lengths = texts.starts, max(texts.lengths), texts.lengths
    out, _ = packed_attention(
        torch.nn.Identity(),
        *parts,
        None,
        cu_seq_lens_q=starts,
        cu_seq_lens_k=starts,
        max_length_q=most,
        max_length_k=most,
        query_lengths=lengths,
        key_lengths=lengths,
        dropout=dropout,
    )
    return out.squeeze(0)


def by_jagged(texts: Texts, dropout: float = 0.0) -> torch.Tensor:
    """Nested tensors in `scaled_dot_product_attention`."""

    def nested(part: torch.Tensor) -> torch.Tensor:
        least, most = min(texts.lengths), max(texts.lengths)
        whole = torch.nested.nested_tensor_from_jagged(part, offsets, min_seqlen=least, max_seqlen=most)
        return whole.transpose(1, 2)

    offsets = texts.starts.long()
    parts = (nested(part) for part in (texts.query, texts.key, texts.value))
    return F.scaled_dot_product_attention(*parts, dropout_p=dropout).transpose(1, 2).values()


def by_varlen(texts: Texts) -> torch.Tensor:
    """PyTorch's `varlen_attn`, which has no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    most = max(texts.lengths)
    out = varlen_attn(texts.query, texts.key, texts.value, texts.starts, texts.starts, most, most)
    return out if isinstance(out, torch.Tensor) else out[0]


def by_loop(texts: Texts, dropout: float = 0.0) -> torch.Tensor:
    """Neighbours of one length together, length by length."""
    groups = [(length, len(list(same))) for length, same in groupby(texts.lengths)]
    pieces = [length * count for length, count in groups]
    outputs = []
    parts = zip(*(part.split(pieces) for part in (texts.query, texts.key, texts.value)), strict=True)
    for (_, count), some in zip(groups, parts, strict=True):
        q, k, v = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in some)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def by_flash_attn(texts: Texts, dropout: float = 0.0) -> torch.Tensor:
    """The package, where it is installed."""
    from flash_attn import flash_attn_varlen_func

    most, starts = max(texts.lengths), texts.starts
    out: torch.Tensor = flash_attn_varlen_func(
        texts.query, texts.key, texts.value, starts, starts, most, most, dropout_p=dropout
    )
    return out


def passes(way: Way, texts: Texts) -> tuple[torch.Tensor, ...]:
    """What comes out, and the gradients of what goes in."""
    out = way(texts)
    return out.detach(), *torch.autograd.grad(out, (texts.query, texts.key, texts.value), texts.gradient)


def padded_passes(texts: Texts, dropout: float = 0.0) -> Callable[[], tuple[torch.Tensor, ...]]:
    """The same with padding and a mask, from padded tensors to padded tensors."""
    lengths = torch.tensor(texts.lengths, device=device())
    mask = torch.arange(max(texts.lengths), device=device()) < lengths[:, None]

    def pad(part: torch.Tensor) -> torch.Tensor:
        rows = part.new_zeros((*mask.shape, HEADS, SIZE))
        rows[mask] = part.detach()
        return rows.transpose(1, 2)

    query, key, value = (pad(part).requires_grad_() for part in texts[:3])
    gradient, keys = pad(texts.gradient), mask[:, None, None]

    def run() -> tuple[torch.Tensor, ...]:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=keys, dropout_p=dropout)
        return out.detach(), *torch.autograd.grad(out, (query, key, value), gradient)

    def unpadded() -> tuple[torch.Tensor, ...]:
        return tuple(part.transpose(1, 2)[mask] for part in run())

    run.unpadded = unpadded  # type: ignore[attr-defined]
    return run


def exact(texts: Texts) -> tuple[torch.Tensor, ...]:
    """By the definition, in float64."""

    def way(wide: Texts) -> torch.Tensor:
        parts = zip(*(part.split(wide.lengths) for part in wide[:3]), strict=True)
        return torch.cat([_one(*part) for part in parts])

    def _one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        weights = (torch.einsum("qhd,khd->hqk", q, k) * SIZE**-0.5).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, v)

    wide = [part.detach().double() for part in texts[:4]]
    return passes(way, Texts(*(part.requires_grad_() for part in wide[:3]), wide[3], *texts[4:]))


def compare(
    results: Results,
    rows: dict[str, list[float | str]],
    case: str,
    lengths: list[int],
    given: dict[str, Way],
    tiny: bool,
) -> None:
    """Errors and times of all ways on one batch, into `rows`."""
    texts = texts_of(lengths)
    expected = exact(texts)
    padded = padded_passes(texts)
    padded_error = error(padded.unpadded(), expected)  # type: ignore[attr-defined]
    title = f"{case} ({len(lengths)} texts, {sum(lengths)} tokens)"
    calls = 3 if tiny else 40
    with results.check(f"padded, {title}"):
        note_times(rows, "padded", title, padded_error, padded, calls)
        note_times(rows, f"padded, dropout {DROPOUT}", title, float("nan"), padded_passes(texts, DROPOUT), calls)
    for name, way in given.items():
        call = partial(passes, way, texts)
        try:
            own = float("nan") if "dropout" in name else error(call(), expected)
            if own > WRONG * padded_error:
                note = f"relative error {own:.1e}, padded attention's {padded_error:.1e}"
                results.tell(
                    f"{name}, {title}, is wrong: error in parts of padded attention's", own / padded_error, note=note
                )
            note_times(rows, name, title, own, call, calls)
        except ImportError:
            continue
        except Exception as failure:
            if "CUDA error" in str(failure):
                raise
            results.missing(f"{name}, {title}", f"{type(failure).__name__}: {str(failure)[:160]}")
    clean_up()


def error(got: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> float:
    """The largest of the errors of output and gradients, each by norm."""
    return max(float((one.double() - other).norm() / other.norm()) for one, other in zip(got, expected, strict=True))


def note_times(
    rows: dict[str, list[float | str]], name: str, case: str, own_error: float, call: Callable[[], Any], calls: int
) -> None:
    """A row of the table: the way, the error, time by the wall and by the device alone."""
    wall = microseconds(call, calls)
    try:
        alone: float | str = graph_microseconds(call, calls) if on_gpu() else ""
    except Exception as failure:
        if "CUDA error" in str(failure) and "captur" not in str(failure):
            raise
        alone = f"no graph: {str(failure)[:60]}"
        wait()
    rows[f"{case}|{name}"] = ["" if own_error != own_error else f"{own_error:.1e}", wall, alone]


def table(results: Results, rows: dict[str, list[float | str]], tiny: bool) -> None:
    """All rows as one result."""
    names = ["batch", "way", "error", "wall, us", "gpu, us"]
    content = [[*key.split("|"), *row] for key, row in rows.items()]
    for row in content:
        print("   ", *(f"{cell:.0f}" if isinstance(cell, float) else cell for cell in row), sep="  ", flush=True)
    note = "Forward and backward of one layer's attention, bf16, medians."
    results.tell("attention", f"{len(content)} rows", table=[names, *content], note=note)


def microseconds(call: Callable[[], Any], calls: int = 20) -> float:
    """Median from the end of one call to that of the next, as the device sees it, while the host runs ahead."""
    for _ in range(3):
        call()
    wait()
    if not on_gpu():
        taken = []
        for _ in range(calls):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        return 1e6 * statistics.median(taken)
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    ends[0].record()
    for end in ends[1:]:
        call()
        end.record()
    wait()
    return 1e3 * statistics.median(a.elapsed_time(b) for a, b in pairwise(ends))


def graph_microseconds(call: Callable[[], Any], calls: int) -> float:
    """The same of a CUDA graph of the call, which leaves the host out."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()
    taken = microseconds(graph.replay, calls)
    del kept
    return taken


def dropout(results: Results) -> None:
    """Dropout of attention weights through the jagged way. Where the values of a text are the rows of a unit matrix,
    what comes out are the weights after dropout; the gradient of the values must be made with the same ones."""
    lengths = [SIZE, SIZE // 2, 40, 7]
    texts = texts_of(lengths)
    unit = torch.eye(SIZE, device=device())[:, None].expand(SIZE, HEADS, SIZE)
    value = torch.cat([unit[:length] for length in lengths]).to(texts.value.dtype).requires_grad_()
    texts = texts._replace(value=value)
    plain = by_loop(texts).detach().float()
    out, *_, gradient = passes(partial(by_jagged, dropout=DROPOUT), texts)
    dropped = out.float()
    ratio = dropped / plain.where(plain > 1e-3, torch.nan)
    share = float((ratio[~ratio.isnan()] == 0).float().mean())
    kept = float(ratio[ratio > 0].mean())
    note = f"of the weights; those kept are {kept:.3f} times as large, which should be {1 / (1 - DROPOUT):.3f}"
    results.tell("jagged, dropout drops", share, bar=Bar(DROPOUT - 0.02, DROPOUT + 0.02), note=note)
    parts = zip(dropped.split(lengths), texts.gradient.float().split(lengths), strict=True)
    expected = torch.cat(
        [torch.einsum("qhk,qhd->khd", weights[..., : len(weights)], towards) for weights, towards in parts]
    )
    own = float((gradient.float() - expected).norm() / expected.norm())
    note = "the gradient of the values against the weights that the forward pass dropped, by norm"
    results.tell("jagged, dropout, backward drops the same", own, bar=Bar(at_most=0.02), note=note)
