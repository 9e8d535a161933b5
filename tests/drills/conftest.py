"""What the drills share: a table of what each of them lost. Every number in it must be 0."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import pytest

_DRILLS = pytest.StashKey[list["Drill"]]()


@dataclass
class Drill:
    """One drill, and what it found lost, doubled or wrong."""

    title: str
    found: list[tuple[str, int, int]] = field(default_factory=list)
    """What was counted, how many of it were lost, doubled or wrong, of how many."""

    def lost(self, what: str, number: int, *, of: int) -> None:
        """Count something; `of` must not be 0, or the drill looked at nothing."""
        assert of > 0, f"the drill has seen no {what}"
        self.found.append((what, number, of))


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> Drill:
    """The drill of this test, named by its docstring."""
    drill = Drill((request.function.__doc__ or request.node.name).strip().splitlines()[0].rstrip("."))
    request.config.stash.setdefault(_DRILLS, []).append(drill)
    return drill


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Generator[None, None, None]:
    """A drill that came to its end fails unless all that it counted is 0. One that is interrupted says so in the table,
    and leaves what the others counted there."""
    yield
    drill = item.funcargs.get("drill")
    if drill is not None:
        assert drill.found, "the drill counted nothing"
        assert not [entry for entry in drill.found if entry[1]], drill.found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table."""
    drills = terminalreporter.config.stash.get(_DRILLS, [])
    if not drills:
        return
    terminalreporter.section("what the drills lost")
    for drill in drills:
        counted = [f"{number} of {of:,} {what}" for what, number, of in drill.found]
        terminalreporter.write_line(f"{drill.title}: {', '.join(counted) or 'did not come to its end'}")
