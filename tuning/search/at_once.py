"""How many trials run at once."""

from __future__ import annotations

from collections.abc import Callable

from ray.tune.search import ConcurrencyLimiter, Searcher

from tuning.search.driver_only import DriverOnly


class AsManyAsGroups(DriverOnly, ConcurrencyLimiter):
    """Lets a searcher begin a trial only when fewer run than there are worker groups, whose number may change."""

    def __init__(self, searcher: Searcher, groups: Callable[[], int], *, most: int) -> None:
        """`most`: there will never be more groups."""
        super().__init__(searcher, max_concurrent=most)
        self._groups = groups

    def suggest(self, trial_id: str) -> dict[str, object] | None:
        """The config of the next trial, as the searcher gives it; None while no group is free."""
        self.set_max_concurrency(self._groups())
        suggested: dict[str, object] | None = super().suggest(trial_id)
        return suggested

    def get_state(self) -> dict[str, object]:
        """Nothing: Ray Tune writes it for a restore that is never used."""
        return {}
