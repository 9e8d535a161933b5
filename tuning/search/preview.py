"""What a search will try, drawn without a sweep: by the samplers and the seed that the sweep has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import optuna

from search_spaces.distributions import Constant
from tuning.search.sampling import PointSampler, UnsavedTrial, make_sampler, write_down
from tuning.study import SearchConfig, StudyConfig

if TYPE_CHECKING:
    import pandas as pd


def _empty_study(config: StudyConfig) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize" if config.objective.mode == "max" else "minimize")


def first_trials(config: StudyConfig, most: int) -> list[dict[str, object]]:
    """The values of the first trials, as the sweep will have them: the points, and what is drawn before the search
    learns from results. With earlier sweeps to learn from, that is none.

    Args:
        config: The study.
        most: No more than so many.
    """
    learns = config.search.algorithm in ("tpe", "gp", "cmaes")
    known = config.search.startup_trials if learns else config.budget.trials
    if config.search.warm_start:
        whole = [config.space.identity(point) is not None for point in config.search.points]
        known = [*whole, False].index(False)
    return _in_order(config, config.search, min(most, known, config.trials_left()))


def trials_by_chance(config: StudyConfig, most: int) -> list[dict[str, object]]:
    """The values of the trials of a sweep that never learns from results: its points, and then at random; or its grid.

    Args:
        config: The study.
        most: No more than so many; fewer where the space has no more points.
    """
    points, search = config.space.points(), config.search
    if search.algorithm != "grid":
        search = search.model_copy(update={"algorithm": "random"})
    return _in_order(config, search, most if points is None else min(most, len(points)))


def _in_order(config: StudyConfig, search: SearchConfig, count: int) -> list[dict[str, object]]:
    study, found = _empty_study(config), list[dict[str, object]]()
    for number in range(count):
        study.sampler = make_sampler(search, config.space, trial=number)
        trial = study.ask()
        values = PointSampler(study, config.space, search, number).new_values()
        write_down(trial, config.space, values)
        found.append(values)
    return found


def draws(config: StudyConfig, count: int) -> pd.DataFrame:
    """Values as they are drawn before any result is known, a row each; one that a trial does not have is missing. Of a
    grid each point once.

    Args:
        config: The study.
        count: Of rows, where it is no grid.
    """
    import pandas as pd

    space = config.space
    if config.search.algorithm == "grid":
        rows: list[Mapping[str, object]] = list(space.points() or [])
    else:
        study = _empty_study(config)
        at_random = config.search.model_copy(update={"algorithm": "random"})
        study.ask()
        (frozen,) = study.get_trials(deepcopy=False)
        rows = []
        for number in range(count):

            def sampler_of(name: str, number: int = number) -> optuna.samplers.BaseSampler:
                return make_sampler(at_random, space, trial=number, parameter=name)

            rows.append(space.suggest(UnsavedTrial(study, frozen, {}, sampler_of)))
    frame = pd.DataFrame(rows, columns=list(space), dtype=object)
    numbers = [name for name, each in space.items() if not isinstance(each, Constant) and _is_scale(each.ends())]
    return frame.astype(dict.fromkeys(numbers, float))


def _is_scale(ends: object) -> bool:
    return isinstance(ends, tuple | list) and all(
        isinstance(end, int | float) and not isinstance(end, bool) for end in ends
    )
