"""`NUMBERS` stands for what trainings come to: a resume goes by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kobert_core.config import NUMBERS
from kobert_core.runtime import LocalRuntime, Report
from kobert_core.tasks import task_class
from kobert_core.training import train
from tests.fixtures.tiny import tiny_config

OF_BERT = [(0.6954981826600575, 0.6933173361070536), (0.6935036182403564, 0.6931953845812241)]
COMES_TO = {1: OF_BERT, 2: OF_BERT}  # 2: DeBERTa and ModernBERT draw dropout for fewer tokens
"""By `NUMBERS`: losses on the training and on the dev split, at each evaluation."""


def test_other_numbers_have_another_name(cache: Path) -> None:
    """When this fails since trainings come to other numbers on purpose: raise `NUMBERS`, and add its losses here."""
    config = tiny_config()
    reports: list[Report] = []
    train(config, task_class(config.task)(config, cache=cache), LocalRuntime(on_report=reports.append))
    losses = [(report.metrics["train/loss"], report.metrics["eval/loss"]) for report in reports]
    assert losses == [pytest.approx(pair, rel=2e-5) for pair in COMES_TO[NUMBERS]]
