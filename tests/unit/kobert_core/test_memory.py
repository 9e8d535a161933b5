"""The size of a micro-batch follows from the memory, and never changes the mathematics."""

from __future__ import annotations

import platform
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from kobert_core.errors import InputError
from kobert_core.memory import CPU_TOKENS, largest_that_fits, tokens_that_fit
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks.nsmc import Nsmc
from tests.fixtures.tiny import tiny_config


def attempts(limit: int, *, most: int, least: int) -> tuple[list[int], int]:
    tried: list[int] = []

    def attempt(tokens: int) -> None:
        tried.append(tokens)
        if tokens > limit:
            raise torch.OutOfMemoryError(f"tried to allocate memory for {tokens} tokens")

    return tried, largest_that_fits(attempt, most=most, least=least)


def test_half_as_many_tokens_until_they_fit() -> None:
    assert attempts(3000, most=10_000, least=128) == ([10_000, 5000, 2500], 2500)
    assert attempts(3000, most=2000, least=128) == ([2000], 2000)
    assert attempts(200, most=1000, least=180) == ([1000, 500, 250, 180], 180)


def test_an_example_that_does_not_fit_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"optim\.batch_size.*does not hold one example of 128 tokens.*checkpointing"):
        attempts(100, most=1000, least=128)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def attempt(tokens: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        largest_that_fits(attempt, most=1000, least=10)


@pytest.mark.parametrize(
    ("optim", "tokens"),
    [
        ({"batch_size": 32}, None),
        ({"batch_size": 32, "max_tokens": 500}, 500),
        ({"batch_size": "auto", "effective_batch_size": 64}, CPU_TOKENS),
        ({"batch_size": "auto", "effective_batch_size": 64, "max_tokens": 500}, 500),
    ],
)
def test_on_a_cpu_the_tokens_at_once_are_a_fixed_number(cache: Path, optim: dict, tokens: int | None) -> None:
    config = tiny_config(optim=optim)
    task = Nsmc(config, cache=cache)
    runtime = LocalRuntime(device=torch.device("cpu"))
    assert tokens_that_fit(task.build_model(), task, config.optim, runtime, nullcontext()) == tokens


def test_auto_needs_to_know_the_examples_of_an_update() -> None:
    with pytest.raises(ValidationError, match="`effective_batch_size` must say how many examples an update has"):
        tiny_config(optim={"batch_size": "auto"})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have their own ways")
def test_memory_that_was_freed_is_there_again_without_new_pages() -> None:
    """In a process of its own, since it cannot be undone."""
    code = """
import resource, sys, torch
from kobert_core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(2**21) for _ in range(10)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin
faults()
print(faults())
"""
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("as it is", "keep")
    )
    if given_back == 0:
        pytest.skip("this kernel counts no page faults")
    assert kept < given_back / 10
