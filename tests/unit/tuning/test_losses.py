"""Whose fault it was that a trial ended with an error: its own, a user's, or that of processes around it."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError

from kobert_core.config import Objective
from kobert_core.errors import InputError
from search_spaces.distributions import Space
from tests.fixtures.sweeps import QUICKSTART
from tuning.budget import Budget
from tuning.disk import DiskNeeds
from tuning.failures import TrialFailed, TrialRefused, in_one_line, is_infrastructure, process_of, was_infrastructure
from tuning.recording import Recorder
from tuning.results import LEDGER, TrialRecord, TrialTable
from tuning.rounds import Rounds
from tuning.search import OptunaSearcher, Teller, open_optuna_study
from tuning.sitting import MAX_LOSSES, VARIABLE, Sitting
from tuning.study import SearchConfig, load_study
from tuning.sweep import take_up_lost
