"""As many trials at once as there are worker groups, whose number may change."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray import cloudpickle
from ray.tune.search import ConcurrencyLimiter

from tests.unit.tuning.search.test_searcher import finish, searcher
from tuning.search.at_once import AsManyAsGroups


def test_a_trial_begins_when_a_group_is_free(tmp_path: Path) -> None:
    groups, bridge = [1], searcher(tmp_path)
    limited = AsManyAsGroups(bridge, lambda: groups[0], most=8)
    assert limited.suggest("a") is not None
    assert limited.suggest("b") is None
    groups[0] = 3  # machines have joined
    assert limited.suggest("b") is not None
    assert limited.suggest("c") is not None
    assert limited.suggest("d") is None
    groups[0] = 1  # and left
    for trial_id in "ab":
        finish(bridge, trial_id, 0.5)
        limited.on_trial_complete(trial_id)
        assert limited.suggest("d") is None
    finish(bridge, "c", 0.5)
    limited.on_trial_complete("c")
    assert limited.suggest("d") is not None
    assert cloudpickle.loads(cloudpickle.dumps(limited.get_state())) == {}


@pytest.mark.parametrize("groups", [1, 3])
def test_a_fixed_number_suggests_what_ray_tunes_own_limit_does(tmp_path: Path, groups: int) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "ours").mkdir()
    own, ours = searcher(tmp_path / "own"), searcher(tmp_path / "ours")
    theirs, limited = ConcurrencyLimiter(own, max_concurrent=groups), AsManyAsGroups(ours, lambda: groups, most=12)
    running: list[str] = []
    for number in range(12):
        trial_id = str(number)
        while len(running) == groups:
            assert theirs.suggest(trial_id) is None and limited.suggest(trial_id) is None
            done = running.pop(0)
            for bridge, limiter in ((own, theirs), (ours, limited)):
                finish(bridge, done, 0.5, 0.1 * (int(done) % 7))
                limiter.on_trial_complete(done)
        suggested = limited.suggest(trial_id)
        assert suggested is not None and suggested == theirs.suggest(trial_id)
        running.append(trial_id)
