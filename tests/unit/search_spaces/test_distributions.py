"""Distributions refuse what makes no sense, and agree with Optuna on what they allow."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kobert_core.errors import InputError
from search_spaces.distributions import MAX_GRID, Categorical, Int, Space, Uniform

ALL = {
    "a": {"distribution": "uniform", "min": -1, "max": 1},
    "b": {"distribution": "log_uniform", "min": 1e-5, "max": 1e-1},
    "c": {"distribution": "q_uniform", "min": 0.1, "max": 0.7, "q": 0.2},
    "d": {"distribution": "int", "min": 2, "max": 8, "q": 3},
    "e": {"distribution": "int_log", "min": 1, "max": 64},
    "f": {"distribution": "categorical", "values": ["x", True, 3, 0.5, None]},
    "g": {"distribution": "constant", "value": 7},
}


def ask(space: Space, trials: int = 50, seed: int = 0) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(trials)]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"distribution": "uniform", "min": 1, "max": 0}, "`min < max` must hold, but got min=1.0, max=0.0"),
        ({"min": 3, "max": 3}, "`min < max` must hold, but got min=3, max=3"),
        ({"distribution": "log_uniform", "min": 0, "max": 1}, "must be greater than 0, but got 0"),
        ({"distribution": "int_log", "min": 0, "max": 9}, "must be greater than or equal to 1, but got 0"),
        ({"min": 0, "max": 1, "q": 0.3}, "`max - min` must be a multiple of `q`"),
        ({"min": 1, "max": 8, "q": 2}, "`max - min` must be a multiple of `q`"),
        ({"distribution": "int", "min": 1.5, "max": 8}, "must be a valid integer, but got 1.5"),
        ({"distribution": "uniform", "min": True, "max": 8}, "must be a valid number, but got true"),
        ({"distribution": "uniform", "min": 0, "max": float("inf")}, "finite number"),
        ({"distribution": "uniform", "min": "0", "max": 1}, 'must be a valid number, but got "0"'),
        ({"distribution": "uniform", "min": 0}, "`parameters.x.max` must be given"),
        ({"min": 0, "max": 1, "mx": 2}, "unknown key `parameters.x.mx`; did you mean `max`?"),
        ({"distribution": "unifrom", "min": 0, "max": 1}, "did you mean `uniform`?"),
        ({"distribution": 3}, "cannot be 3"),
        ({"values": []}, "at least 1 item"),
        ({"values": [1, 1.0]}, "1.0 is there twice"),
        ({"values": [[1], [2]]}, "but got [1]"),
        ({"value": {"a": 1}}, "values must be text, finite numbers, true, false or null"),
        ({"min": 0}, "needs a `distribution`"),
        (1e-4, "write `{value: 0.0001}` for a fixed value"),
    ],
)
def test_a_bad_distribution_is_refused_and_shown(raw: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        Space.from_dict({"x": raw})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_short_forms() -> None:
    space = Space.from_dict(
        {
            "a": {"values": [1, 2]},
            "b": {"value": 3},
            "c": {"min": 1, "max": 8},
            "d": {"min": 1, "max": 8.0},
            "e": {"min": 0, "max": 1, "q": 0.5},
            "f": {"min": 0, "max": 4, "q": 2},
        }
    )
    kinds = [space[name].model_dump()["distribution"] for name in "abcdef"]
    assert kinds == ["categorical", "constant", "int", "uniform", "q_uniform", "int"]


def test_what_optuna_suggests_is_contained_and_everything_is_suggested() -> None:
    space = Space.from_dict(ALL)
    asked = ask(space, trials=200)
    for values in asked:
        assert list(values) == list(ALL)
        space.contains(values)
    assert {round(values["c"], 9) for values in asked} == {0.1, 0.3, 0.5, 0.7}
    assert {values["d"] for values in asked} == {2, 5, 8}
    assert {str(values["f"]) for values in asked} == {"x", "True", "3", "0.5", "None"}
    assert {values["g"] for values in asked} == {7}
    assert sum(values["b"] < 1e-3 for values in asked) == pytest.approx(100, abs=30), "half of the magnitudes"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"a": 1.01}, "`a` cannot be 1.01; it is searched as uniform, min -1.0, max 1.0"),
        ({"a": True}, "`a` cannot be true"),
        ({"a": "0"}, '`a` cannot be "0"'),
        ({"c": 0.2}, "`c` cannot be 0.2"),
        ({"d": 3}, "`d` cannot be 3"),
        ({"d": 5.0}, "`d` cannot be 5.0"),
        ({"e": 65}, "`e` cannot be 65"),
        ({"f": 1}, "`f` cannot be 1;"),  # it has True, which is equal
        ({"g": 8}, "`g` cannot be 8"),
        ({"h": 8}, "`h` is not a searched parameter"),
    ],
)
def test_points_outside_of_the_space(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        Space.from_dict(ALL).contains(values)
    assert words in str(error.value)


def test_points_inside_of_the_space() -> None:
    space = Space.from_dict(ALL)
    space.contains({"a": 0, "b": 1e-5, "c": 0.3, "d": 8, "e": 64, "f": None, "g": 7})
    space.contains({"f": True})
    space.contains({})


CONDITIONAL = {
    "rate": {"min": 0.0, "max": 0.5, "when": {"warmup": "ratio"}},
    "steps": {"min": 1, "max": 100, "when": {"warmup": ["steps", "both"]}},
    "shape": {"values": ["a", "b"], "when": {"warmup": "both", "fixed": 1}},
    "warmup": {"values": ["ratio", "steps", "both", "none"]},
    "fixed": {"value": 1},
}
ACTIVE = {"ratio": {"rate"}, "steps": {"steps"}, "both": {"steps", "shape"}, "none": set()}


def test_conditional_parameters_exist_only_when_their_condition_holds() -> None:
    space = Space.from_dict(CONDITIONAL)
    assert space.has_conditions and not Space.from_dict(ALL).has_conditions
    assert space.order.index("warmup") < min(space.order.index(name) for name in ("rate", "steps", "shape"))
    seen = set()
    for values in ask(space):
        seen.add(values["warmup"])
        assert set(values) == {"warmup", "fixed"} | ACTIVE[values["warmup"]]
        assert set(space.active(values)) == set(values)
        space.contains(values)
    assert seen == set(ACTIVE)
    assert set(space.active({"warmup": "both"})) == {"warmup", "fixed", "steps", "shape"}
    assert set(space.active({})) == {"warmup", "fixed"}
    with pytest.raises(InputError, match='`rate` is given, but `warmup` is "none"; it is there only when `warmup`'):
        space.contains({"warmup": "none", "rate": 0.1})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"a": {"value": 1, "when": {"bb": 1}}, "b": {"value": 1}}, "`bb` is not a parameter; did you mean `b`?"),
        ({"a": {"value": 1, "when": {"b": 3}}, "b": {"values": [1, 2]}}, "`b` can never be 3"),
        ({"a": {"value": 1, "when": {"b": [1, True]}}, "b": {"values": [1, 2]}}, "`b` can never be 1 or true"),
        ({"a": {"value": 1, "when": {"b": []}}, "b": {"values": [1, 2]}}, "`b` can never be nothing"),
        ({"a": {"value": 1, "when": {"b": 0.5}}, "b": {"min": 0.0, "max": 1.0}}, "`b` is continuous"),
        ({"a": {"value": 1, "when": 3}}, "`parameters.a.when` must be a mapping"),
        ({"a": {"value": 1, "when": {"a": 1}}}, "the conditions of `a` go round in a circle"),
        (
            {"a": {"value": 1, "when": {"b": 1}}, "b": {"value": 1, "when": {"c": 1}},
             "c": {"value": 1, "when": {"a": 1}}, "d": {"value": 1}},
            "the conditions of `a`, `b`, `c` go round in a circle",
        ),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be(raw: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        Space.from_dict(raw)
    assert words in str(error.value)


def test_grid() -> None:
    few = {"distribution": "int_log", "min": 1, "max": 3}
    space = Space.from_dict({name: ALL[name] for name in "cdfg"} | {"e": few})
    assert space.grid() == {"c": [0.1, 0.3, 0.5, 0.7], "d": [2, 5, 8], "f": ["x", True, 3, 0.5, None], "e": [1, 2, 3]}
    assert space.grid_size() == 4 * 3 * 5 * 3
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(space.grid(), seed=0))
    seen = []

    def objective(trial: optuna.Trial) -> float:
        seen.append(repr(space.suggest(trial)))
        return 0.0

    study.optimize(objective)
    assert len(seen) == len(set(seen)) == space.grid_size()
    with pytest.raises(InputError, match="`b` is continuous"):
        Space.from_dict({"b": ALL["b"]}).grid()
    with pytest.raises(InputError, match=f"the grid has 1000000000 points; it may have {MAX_GRID}"):
        Space.from_dict({"b": {"min": 1, "max": 10**9}}).grid()


def test_corners_are_all_combinations_of_the_ends() -> None:
    space = Space.from_dict({"a": {"min": 0.0, "max": 1.0}, "b": {"values": [1, 2, 3]}, "c": {"value": 4}})
    corners = [tuple(values.values()) for values in space.corners(100)]
    assert sorted(corners) == [(a, b, 4) for a in (0.0, 1.0) for b in (1, 2, 3)]
    assert len(list(space.corners(5))) == 5
    assert list(Space.from_dict({}).corners(5)) == [{}]
    for values in [*Space.from_dict(CONDITIONAL).corners(1000), *Space.from_dict(CONDITIONAL).corners(7)]:
        assert set(values) == {"warmup", "fixed"} | ACTIVE[values["warmup"]]


def test_a_space_is_written_and_read_again() -> None:
    for raw in (ALL, CONDITIONAL, {}):
        space = Space.from_dict(raw)
        assert Space.from_dict(space.to_dict()) == space
    assert Space({"a": Int(min=1, max=2)}) != Space({"a": Int(min=1, max=3)})
    assert str(Categorical(values=[1, "x"], when={"a": [2]})) == 'categorical, values [1, "x"], when a is 2'


@settings(deadline=None, max_examples=50)
@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 12), st.integers(0, 10_000))
def test_steps_of_a_tenth_are_those_of_optuna(low: int, steps: int, tenths: int, seed: int) -> None:
    """`q` has rounding errors in binary: what Optuna suggests must still be one of the grid's values."""
    q = tenths / 10
    raw = {"distribution": "q_uniform", "min": low / 10, "max": round(low / 10 + steps * q, 1), "q": q}
    space = Space.from_dict({"x": raw})
    grid = space.grid()["x"]
    assert len(grid) == steps + 1 and grid[-1] == raw["max"]
    for values in ask(space, trials=3, seed=seed):
        space.contains(values)
        assert min(abs(values["x"] - each) for each in grid) < 1e-9
    for value in grid:
        space.contains({"x": value})


WORDS = st.sampled_from(["uniform", "int", "q_uniform", "x", "가"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
KEYS = st.sampled_from(["distribution", "min", "max", "q", "values", "value", "when", "x"])
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(KEYS, SCALARS, max_size=2)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, VALUES))
def test_any_mapping_is_a_distribution_or_an_input_error(raw: dict[str, Any]) -> None:
    try:
        space = Space.from_dict({"x": raw})
    except InputError:
        return
    for end in space["x"].ends():
        assert space["x"].contains(end)


def test_configs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Uniform(min=0, max=1).min = 3
