"""What Ray Tune must not pickle."""

from __future__ import annotations


class DriverOnly:
    """Ray Tune pickles and copies what it is given, for a restore that is never used: here it gets nothing."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def __deepcopy__(self, memo: dict[int, object]) -> DriverOnly:
        return self
