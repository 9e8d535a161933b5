"""What stays in the driver of a sweep."""

from __future__ import annotations

from typing import Any


class DriverOnly:
    """Ray Tune pickles and copies what it is given, for a restore that is never used: here it gets nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self
