"""The loop: what a step is, that a run repeats bit for bit, and goes on after a stop as if there had been none."""

from __future__ import annotations

import contextlib
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from kobert_core.checkpoint import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    adopt_checkpoint,
    load_state,
    load_weights,
    newest_checkpoint,
)
from kobert_core.data.batching import StepOrder, micro_batches
from kobert_core.io.checksums import write_sums
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks.text_classification.task import Nsmc
from kobert_core.training import CheckpointClock, NonFiniteError, evaluation_steps, train
from tests.fixtures.tiny import tiny_config

NO_DROPOUT = {"dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0}


class InFloat64(Nsmc):
    """Rounding in float32 alone drifts above 1e-5: mathematics is compared in float64."""

    def build_model(self):
        return super().build_model().double()


class StopAfter(LocalRuntime):
    """Ends a run after so many steps, as a scheduler would."""

    def __init__(self, steps: int, **fields) -> None:
        super().__init__(**fields)
        self.left = steps

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left <= 0


class Killed(BaseException):
    pass


class KilledAfter(StopAfter):
    """Dies after so many steps: nothing more is written."""

    def should_stop(self) -> bool:
        if super().should_stop():
            raise Killed
        return False


def weights_after(config, cache: Path, runtime: LocalRuntime | None = None, task=Nsmc) -> dict[str, torch.Tensor]:
    model = train(config, task(config, cache=cache), runtime or LocalRuntime(device=torch.device("cpu")))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("extra", [{}, {"class_weights": (0.3, 1.7)}, {"label_smoothing": 0.1}], ids=str)
def test_accumulation_does_not_change_the_mathematics(cache: Path, extra: dict) -> None:
    """The same examples however they are cut: the same weights after an epoch with a ragged tail."""

    def run(**optim: object) -> dict[str, torch.Tensor]:
        config = tiny_config(model=NO_DROPOUT | extra, optim=optim, data={"max_train_examples": 333})
        return weights_after(config, cache, task=InFloat64)

    whole = run(batch_size=32, accumulation=1)
    for optim in (
        {"batch_size": 16, "accumulation": 2},
        {"batch_size": 8, "accumulation": 4},
        {"batch_size": 32, "max_tokens": 150},
        {"batch_size": "auto", "effective_batch_size": 32, "max_tokens": 300},
    ):
        cut = run(**optim)
        for name, tensor in whole.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(cut[name], tensor, rtol=0, atol=1e-10, msg=name)


def test_gradients_of_a_step_do_not_depend_on_how_it_is_cut(cache: Path) -> None:
    config = tiny_config(model=NO_DROPOUT)
    task = InFloat64(config, cache=cache)
    torch.manual_seed(0)
    model = task.build_model()
    tail = np.arange(29)

    def gradients(batch_size: int) -> list[torch.Tensor]:
        model.zero_grad()
        for piece in micro_batches(tail, task.train.lengths, batch_size=batch_size):
            (task.loss(model, task.train.batch(piece)) / task.total_weight(task.train, tail)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole = gradients(32)
    batch = task.train.batch(tail)
    mean = model(**batch.inputs, **batch.targets).loss
    model.zero_grad()
    mean.backward()
    for gradient, expected in zip(whole, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    for size in (16, 8, 7):
        for gradient, expected in zip(gradients(size), whole, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_effective_batch_size_takes_the_place_of_accumulation(cache: Path) -> None:
    one = tiny_config(model=NO_DROPOUT, optim={"batch_size": 8, "accumulation": 4})
    other = tiny_config(model=NO_DROPOUT, optim={"batch_size": 8, "effective_batch_size": 32})
    assert_equal(weights_after(one, cache), weights_after(other, cache))


def test_checkpointed_gradients_are_the_same_bits(cache: Path) -> None:
    config = tiny_config()
    kept = weights_after(config, cache)
    layers = []
    task = Nsmc(tiny_config(train={"gradient_checkpointing": True}), cache=cache)
    build = task.build_model

    def counting():
        model = build()
        model.bert.encoder.layer[0].attention.register_forward_hook(lambda *_: layers.append(torch.is_grad_enabled()))
        return model

    task.build_model = counting  # type: ignore[method-assign]
    model = train(task.config, task, LocalRuntime(device=torch.device("cpu")))
    assert_equal(kept, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    steps = math.ceil(len(task.train) / 32)
    assert sum(layers) == 2 * steps, "each layer is computed twice in a step"


def test_the_cut_of_micro_batches_stays_that_of_the_start_after_a_resume(cache: Path, tmp_path: Path) -> None:
    """Memory may look different after a resume; dropout would then fall elsewhere."""
    config = tiny_config(optim={"max_tokens": 200}, train={"epochs": 1.5, "eval_percent": 20})
    expected = weights_after(config, cache)
    weights_after(config, cache, StopAfter(6, checkpoints=tmp_path))
    other = config.model_copy(update={"optim": config.optim.model_copy(update={"max_tokens": 50})})
    assert_equal(expected, weights_after(other, cache, LocalRuntime(checkpoints=tmp_path, resume=True)))


def test_the_same_config_gives_the_same_bits_and_another_seed_does_not(cache: Path) -> None:
    config = tiny_config()
    first = weights_after(config, cache)
    torch.randn(7)  # whatever ran before must not matter
    np.random.rand(3)
    assert_equal(first, weights_after(config, cache))
    other = weights_after(tiny_config(train={"seed": 1}), cache)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("how", "interval", "stop_after", "goes_on_after"),
    [
        (StopAfter, 600, 3, 3),
        (StopAfter, 600, 6, 6),
        (KilledAfter, 600, 3, 0),
        (KilledAfter, 600, 9, 8),
        (KilledAfter, 1e-9, 3, 3),
        (KilledAfter, 1e-9, 10, 10),
    ],
)
def test_a_run_that_was_cut_goes_on_bit_for_bit(
    cache: Path, tmp_path: Path, how: type[StopAfter], interval: float, stop_after: int, goes_on_after: int
) -> None:
    """In mid-epoch; from the checkpoint that is written when a run is asked to stop, at an evaluation, or by time."""
    config = tiny_config(train={"epochs": 1.5, "eval_percent": 20, "checkpoint_interval": interval})
    undisturbed: list[Report] = []
    expected = weights_after(config, cache, LocalRuntime(checkpoints=tmp_path / "whole", on_report=undisturbed.append))
    reports: list[Report] = []
    parts = {"checkpoints": tmp_path / "parts", "on_report": reports.append}
    with contextlib.suppress(Killed):
        weights_after(config, cache, how(stop_after, **parts))
    newest = newest_checkpoint(tmp_path / "parts")
    assert (load_state(newest)["progress"]["step"] if newest else 0) == goes_on_after
    torch.manual_seed(999)
    assert_equal(expected, weights_after(config, cache, LocalRuntime(resume=True, **parts)))
    heard = {report.progress: report for report in reports}
    assert len(reports) == 5 + (stop_after >= 4), "a resumed run repeats its last report"
    reports = list(heard.values())
    assert len(reports) == len(undisturbed) == 5
    for report, whole in zip(reports, undisturbed, strict=True):
        assert (report.progress, report.step, report.is_best, Path(report.checkpoint).name) == (
            whole.progress,
            whole.step,
            whole.is_best,
            Path(whole.checkpoint).name,
        )
        steady = [name for name in whole.metrics if name != "train/examples_per_second"]
        assert {name: report.metrics[name] for name in steady} == {name: whole.metrics[name] for name in steady}


def test_a_run_goes_on_from_an_older_checkpoint(cache: Path, tmp_path: Path) -> None:
    """One that has the optimizer's moments in its state, and calls a step an update."""
    config = tiny_config(train={"epochs": 1.5, "eval_percent": 20})
    expected = weights_after(config, cache)
    weights_after(config, cache, StopAfter(6, checkpoints=tmp_path))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    state = load_state(newest)
    for saved in (state["progress"], state["progress"]["report"]):
        saved["update"] = saved.pop("step")
    (newest / OPTIMIZER).unlink()
    torch.save(state, newest / STATE)
    write_sums(newest)
    assert_equal(expected, weights_after(config, cache, LocalRuntime(resume=True, checkpoints=tmp_path)))


@pytest.mark.parametrize("interval", [600, 1e-9])
def test_an_altered_checkpoint_is_passed_over_for_the_one_before(cache: Path, tmp_path: Path, interval: float) -> None:
    config = tiny_config(train={"epochs": 1.5, "eval_percent": 20, "checkpoint_interval": interval})
    expected = weights_after(config, cache)
    weights_after(config, cache, StopAfter(13, checkpoints=tmp_path))
    newest = newest_checkpoint(tmp_path)
    with open(newest / WEIGHTS, "r+b") as file:
        file.truncate(1000)
    before = newest_checkpoint(tmp_path)
    assert before is not None and before != newest
    assert_equal(expected, weights_after(config, cache, LocalRuntime(checkpoints=tmp_path, resume=True)))


def test_workers_agree_when_a_checkpoint_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of rank 0 counts, and is looked at seldom; steps that become slow are noticed in time."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    runtime, looks = LocalRuntime(), []
    runtime.all_gather = lambda value: looks.append(value) or [value]  # type: ignore[method-assign]
    clock = CheckpointClock(100, step=7)
    due = []
    for step in range(8, 8 + 1000):
        now += 0.5 if step < 600 else 4.0
        if clock.is_due(step, runtime):
            due.append(now)
            clock.start(step)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *due])]
    assert len(gaps) > 10 and min(gaps) >= 100
    assert sum(gap > 104 for gap in gaps) <= 1, "more than a step late only where the pace changed"
    assert len(looks) < 12 * len(due)


def test_the_best_and_the_newest_two_checkpoints_stay(cache: Path, tmp_path: Path) -> None:
    """One of them to fall back on, should the newest not be whole."""
    reports: list[Report] = []
    config = tiny_config(train={"epochs": 2, "eval_percent": 10})
    (tmp_path / ".update-00000001.abc.tmp").mkdir()  # what a kill left
    weights_after(config, cache, LocalRuntime(checkpoints=tmp_path, on_report=reports.append))
    best = max(reports, key=lambda report: (report.metrics["eval/accuracy"], -report.step))
    assert best.is_best and Path(best.checkpoint).is_dir()
    kept = {Path(report.checkpoint).name for report in (best, *reports[-2:])}
    assert {folder.name for folder in tmp_path.iterdir()} == kept


def test_reports_come_at_percentages_of_the_run(cache: Path) -> None:
    reports: list[Report] = []
    config = tiny_config(train={"epochs": 3, "eval_percent": 20})
    weights_after(config, cache, LocalRuntime(on_report=reports.append))
    assert [report.progress for report in reports] == [20, 40, 60, 80, 100]
    steps = reports[-1].step
    assert steps == 3 * math.ceil(360 / 32)
    assert [report.step for report in reports] == [math.ceil(steps * p / 100) for p in (20, 40, 60, 80, 100)]
    assert {
        "train/loss",
        "train/examples_per_second",
        "eval/loss",
        "eval/accuracy",
        "optim/backbone_lr",
    } <= reports[0].metrics.keys()


def test_it_learns(cache: Path) -> None:
    """A small model remembers its training examples."""
    reports: list[Report] = []
    config = tiny_config(
        data={"dev": tiny_config().data.train, "max_train_examples": None},
        optim={"backbone_lr": 3e-3, "classifier_lr": 3e-3},
        model=NO_DROPOUT,
        train={"epochs": 20},
    )
    weights_after(config, cache, LocalRuntime(on_report=reports.append))
    assert reports[-1].metrics["eval/accuracy"] > 0.95


def test_a_loss_that_is_not_finite_ends_the_run_with_its_place(cache: Path) -> None:
    config = tiny_config(optim={"backbone_lr": 1e18, "classifier_lr": 1e18, "max_grad_norm": None, "warmup_ratio": 0.0})
    with pytest.raises(NonFiniteError, match=r"after step \d+ .* is (nan|inf)"):
        weights_after(config, cache)


def test_a_run_of_few_steps_evaluates_once_a_step() -> None:
    assert evaluation_steps(3, 10) == {1: 30, 2: 60, 3: 100}
    assert evaluation_steps(1, 10) == {1: 100}


def test_the_training_loss_is_the_mean_over_examples(cache: Path) -> None:
    """With a learning rate of zero every step sees the first weights."""
    reports: list[Report] = []
    config = tiny_config(
        model=NO_DROPOUT,
        optim={"backbone_lr": 0.0, "classifier_lr": 0.0, "batch_size": 40},
        data={"max_train_examples": 320, "dev": tiny_config().data.train},
        train={"eval_percent": 100},
    )
    task = Nsmc(config, cache=cache)
    model = train(config, task, LocalRuntime(on_report=reports.append)).eval()
    batch = task.train.batch(np.arange(320))
    with torch.no_grad():
        expected = float(model(**batch.inputs, **batch.targets).loss)
    assert reports[0].metrics["train/loss"] == pytest.approx(expected, abs=1e-5)


def test_the_order_is_drawn_from_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=1000)
    order, again = (StepOrder(lengths, examples_per_step=32, seed=5) for _ in range(2))
    again.examples_of(70)  # asking for another place first changes nothing
    for number in (0, 31, 32, 40):
        assert np.array_equal(order.examples_of(number), again.examples_of(number))
    assert not np.array_equal(order.examples_of(0), order.examples_of(32))


def test_a_checkpoint_takes_the_place_of_an_own_one_of_the_same_step(cache: Path, tmp_path: Path) -> None:
    config = tiny_config(train={"epochs": 1.5, "eval_percent": 20})
    folders = []
    for seed, name in enumerate(("donor", "own")):
        torch.manual_seed(seed)
        own = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        train(own, Nsmc(own, cache=cache), StopAfter(8, checkpoints=tmp_path / name))
        folders.append(newest_checkpoint(tmp_path / name))
    donor, own_one = folders
    assert donor is not None and own_one is not None and donor.name == own_one.name
    adopt_checkpoint(donor, tmp_path / "own")
    assert_equal(load_weights(own_one), load_weights(donor))
    assert [path.name for path in (tmp_path / "own").iterdir()] == [donor.name]


def test_a_run_that_adopts_a_checkpoint_has_its_weights_and_its_own_rates(cache: Path, tmp_path: Path) -> None:
    parts = {"device": torch.device("cpu"), "checkpoints": tmp_path / "donor"}
    length = {"epochs": 1.5, "eval_percent": 20}
    donor = tiny_config(optim={"backbone_lr": 1e-3, "weight_decay": 0.1}, train=length)
    train(donor, Nsmc(donor, cache=cache), StopAfter(8, **parts))
    folder = newest_checkpoint(tmp_path / "donor")
    assert folder is not None
    adopt_checkpoint(folder, tmp_path / "own")
    config = tiny_config(optim={"backbone_lr": 0.0, "classifier_lr": 0.0, "weight_decay": 0.0}, train=length)
    reports: list[Report] = []
    runtime = LocalRuntime(
        device=torch.device("cpu"), checkpoints=tmp_path / "own", resume=True, on_report=reports.append
    )
    after = weights_after(config, cache, runtime)
    assert_equal(after, load_weights(folder))
    assert [report.metrics["optim/backbone_lr"] for report in reports[1:]] == [0.0] * len(reports[1:])
    assert reports[0].is_best, "another run's best checkpoint is not one of this run"
    assert folder.is_dir(), "the donor keeps its own"


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_compute_the_same(cache: Path, checkpointing: bool) -> None:
    """Rounding differs, since operations are fused; batches of other lengths do not compile again and again."""
    from torch._dynamo.utils import counters

    plain = weights_after(tiny_config(model=NO_DROPOUT), cache)
    counters.clear()
    how = {"compile": True, "gradient_checkpointing": checkpointing}
    compiled = weights_after(tiny_config(model=NO_DROPOUT, train=how), cache)
    assert 0 < counters["stats"]["unique_graphs"] < 12, "not one for each batch"
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=0, atol=2e-3, msg=name)
