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
from kobert_core.memory import CPU_TOKENS, OutOfMemory, is_out_of_memory, largest_that_fits, tokens_that_fit
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.training import train
from tests.fixtures.tiny import tiny_config


def attempts(limit: int, *, most: int, least: int) -> tuple[list[int], int]:
    tried: list[int] = []

    def attempt(tokens: int) -> None:
        tried.append(tokens)
        if tokens > limit:
            raise torch.OutOfMemoryError(f"tried to allocate memory for {tokens} tokens")

    return tried, largest_that_fits(attempt, most=most, least=least)


def test_half_as_many_tokens_until_they_fit_and_then_what_lies_between() -> None:
    assert attempts(3000, most=10_000, least=128) == ([10_000, 5000, 2500, 3750, 3125, 2812], 2812)
    assert attempts(3000, most=2000, least=128) == ([2000], 2000)
    assert attempts(200, most=1000, least=180) == ([1000, 500, 250, 180, 215, 197], 197)


def test_few_tokens_are_found_too() -> None:
    assert attempts(5, most=11, least=5)[1] == 5


@pytest.mark.parametrize("limit", range(130, 4000, 97))
def test_most_of_the_memory_is_used(limit: int) -> None:
    _, tokens = attempts(limit, most=10_000, least=128)
    assert 7 / 8 * limit <= tokens <= limit


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


def test_auto_needs_to_know_the_examples_of_a_step() -> None:
    with pytest.raises(ValidationError, match="`effective_batch_size` must say how many examples a step has"):
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
    for _ in range(2):
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


class LittleMemory(Nsmc):
    """Has no memory for more than `most` examples at once, from step `since` on: forward or backward fails."""

    most, since, where, passes = 8, 3, "forward", 0

    def loss(self, model, batch):
        self.passes += 1
        loss = super().loss(model, batch)
        if len(batch.inputs["lengths"]) > self.most and self.passes > self.since:
            if self.where == "forward":
                torch.empty(2**50, dtype=torch.uint8)  # what the allocator says of it is real
            loss.register_hook(lambda _: torch.empty(2**50, dtype=torch.uint8))
        return loss


def run_with(task: Nsmc, **fields) -> tuple[dict[str, torch.Tensor], list[Report]]:
    reports: list[Report] = []
    runtime = LocalRuntime(device=torch.device("cpu"), on_report=reports.append, **fields)
    weights = train(task.config, task, runtime).state_dict()
    return {name: tensor.clone() for name, tensor in weights.items()}, reports


def little_memory(config, cache: Path, **attributes) -> Nsmc:
    task = LittleMemory(config, cache=cache)
    vars(task).update(attributes)
    return task


NO_DROPOUT = {"dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0}


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_without_memory_begins_again_in_smaller_pieces(cache: Path, where: str) -> None:
    """As if it had been cut so from the start, to the last bit: nothing of the half-done step is left."""
    config = tiny_config(optim={"batch_size": 32}, train={"epochs": 1, "eval_percent": 50})
    cut = tiny_config(optim={"batch_size": 8, "effective_batch_size": 32}, train={"epochs": 1, "eval_percent": 50})
    expected, undisturbed = run_with(Nsmc(cut, cache=cache))
    weights, reports = run_with(little_memory(config, cache, since=0, where=where))
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert [report.micro_batch for report in reports] == [8, 8]
    for report, whole in zip(reports, undisturbed, strict=True):
        assert report.metrics | {"train/examples_per_second": 0} == whole.metrics | {"train/examples_per_second": 0}


def test_memory_that_runs_out_in_mid_run_leaves_the_mathematics_as_it_was(cache: Path) -> None:
    class InFloat64(LittleMemory):
        def build_model(self):
            return super().build_model().double()

    config = tiny_config(model=NO_DROPOUT, optim={"batch_size": 16, "accumulation": 2, "max_tokens": 200})
    whole, tight = InFloat64(config, cache=cache), InFloat64(config, cache=cache)
    vars(whole).update(most=1000)
    vars(tight).update(most=3, since=7, where="backward")
    (expected, _), (weights, reports) = run_with(whole), run_with(tight)
    assert reports[-1].micro_batch == 2
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-10, msg=name)


def test_smaller_pieces_are_remembered_in_the_checkpoint(cache: Path, tmp_path: Path) -> None:
    config = tiny_config(train={"epochs": 1, "eval_percent": 25})
    expected, _ = run_with(little_memory(config, cache), checkpoints=tmp_path / "whole")
    task = little_memory(config, cache)
    heard = 0

    class Halfway(LocalRuntime):
        def should_stop(self) -> bool:
            nonlocal heard
            heard += 1
            return heard == 6

    train(config, task, Halfway(device=torch.device("cpu"), checkpoints=tmp_path / "parts"))
    weights, reports = run_with(Nsmc(config, cache=cache), checkpoints=tmp_path / "parts", resume=True)
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert {report.micro_batch for report in reports} == {8}


def test_a_single_example_without_memory_ends_the_run_with_the_reason(cache: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"does not hold a single example.*gradient_checkpointing"):
        run_with(little_memory(tiny_config(), cache, most=0))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
        (None, False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception | None, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one
