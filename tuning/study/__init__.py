"""A study: what to train, what to search, how, and for how long. Read from a study file, checked as a whole."""

from __future__ import annotations

from tuning.study.config import StudyConfig
from tuning.study.file import dump_study, load_dumped_study, load_study, study_of
from tuning.study.searchable_keys import searchable
from tuning.study.sections import BudgetConfig, ResourcesConfig, SchedulerConfig, SearchConfig, TrackingConfig

__all__ = [
    "BudgetConfig",
    "ResourcesConfig",
    "SchedulerConfig",
    "SearchConfig",
    "StudyConfig",
    "TrackingConfig",
    "dump_study",
    "load_dumped_study",
    "load_study",
    "searchable",
    "study_of",
]
