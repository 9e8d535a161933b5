"""The encoders of a study: one, or all that it searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuning.study.config import StudyConfig

PARAMETERS = ("model.backbone", "model.tokenizer", "model.revision")
"""What says which encoder a trial has, with which tokenizer."""
MAX_CORNERS = 2000


@dataclass(frozen=True)
class Encoder:
    """An encoder and its tokenizer, as trials of a study have them."""

    name: str
    """A short one, which tells it apart from the study's others."""
    backbone: str | None
    tokenizer: str | None
    revision: str | None
    values: dict[str, object]
    """The searched values that choose it, and those that these depend on; empty where it is not searched."""

    @property
    def sources(self) -> dict[str, str]:
        """Folders, or names on the hub, by the field of the model's config."""
        given = {"backbone": self.backbone, "tokenizer": self.tokenizer}
        return {field: source for field, source in given.items() if source}

    @property
    def is_searched(self) -> bool:
        """Whether it is one of several that a study may have."""
        return bool(self.values)

    def is_of(self, values: Mapping[str, object]) -> bool:
        """Whether a trial with these values has this encoder."""
        return all(values.get(name) == self.values.get(name) for name in PARAMETERS)


def encoders_of(study: StudyConfig) -> list[Encoder]:
    """All encoders that trials of a study can have, each once, in the order of the space."""
    space = study.space.part(PARAMETERS)
    points = space.points() or list(space.corners(MAX_CORNERS))
    chosen: dict[tuple[object, ...], dict[str, object]] = {}
    for values in points:
        chosen.setdefault(tuple(values.get(name) for name in PARAMETERS), values)
    short = short_names(text for values in chosen.values() for text in values.values() if isinstance(text, str))
    return [_encoder(study, values, short) for values in chosen.values()]


def _encoder(study: StudyConfig, values: dict[str, object], short: dict[str, str]) -> Encoder:
    def value_of(field: str) -> str | None:
        value = values.get(f"model.{field}", getattr(study.model, field))
        return None if value is None else str(value)

    backbone, tokenizer, revision = (value_of(name.removeprefix("model.")) for name in PARAMETERS)
    name = short_name(backbone, short) if backbone else study.model.init
    if tokenizer and "model.tokenizer" in values:
        name = f"{name} with the tokenizer {short_name(tokenizer, short)}"
    if revision and "model.revision" in values:
        name = f"{name} at {revision}"
    return Encoder(name, backbone, tokenizer, revision, values)


def short_name(value: str, short: dict[str, str]) -> str:
    """A path as `short` has it, or by its last part; anything else as it is."""
    return short.get(value) or (Path(value).name if Path(value).is_absolute() else value)


def short_names(texts: Iterable[str]) -> dict[str, str]:
    """The absolute paths among some texts, each by as many of its last parts as tell it apart from the others."""
    paths = [Path(text) for text in dict.fromkeys(texts) if Path(text).is_absolute()]

    def ending(path: Path, count: int) -> str:
        return "/".join(path.parts[-count:])

    def shortest(path: Path) -> str:
        counts = range(1, len(path.parts))
        others = [other for other in paths if other != path]
        unlike = (count for count in counts if ending(path, count) not in {ending(each, count) for each in others})
        count = next(unlike, None)
        return str(path) if count is None else ending(path, count)

    return {str(path): shortest(path) for path in paths}
