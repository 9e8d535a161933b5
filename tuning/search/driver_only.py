"""What Ray Tune must not pickle."""

from __future__ import annotations


class DriverOnly:
    """Pickled as None, and never copied: Ray Tune pickles its callbacks for a restore that is never used."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def __deepcopy__(self, memo: dict[int, object]) -> DriverOnly:
        return self
