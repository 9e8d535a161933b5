"""Texts that users give, such as labels, columns and file names: how they are compared, and how they are shown."""

from __future__ import annotations

import json
import re
import unicodedata

LONGEST_SHOWN = 40

_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves the cursor, turns the direction of writing, or is no character; neither line ends nor tabs."""


def composed(text: str) -> str:
    """A text as it looks: NFC, without blanks around it. Hangul from a Mac is decomposed, and looks the same."""
    return unicodedata.normalize("NFC", text).strip()


def folded(text: str) -> str:
    """A text in one line: NFC, each run of blanks, tabs and line ends one blank, none around."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def printable(text: str) -> str:
    r"""A text that a terminal only shows: colours go, what would steer it is written out (`\u001b`).

    JSON stays JSON, with the same values.
    """
    return _STEERING.sub(lambda match: json.dumps(match[0])[1:-1], _COLOURS.sub("", text))


def distinct(text: str) -> str:
    """A text in which one sees what it has beside what it looks like: in quotes, and whether it is decomposed."""
    cut = text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
    return repr(cut) + (" in decomposed form" if unicodedata.normalize("NFC", text) != text else "")


def plain_or_distinct(text: str) -> str:
    """A text as it is where it is what it looks like, else as `distinct` shows it."""
    return text if text == composed(text) and text.isprintable() and len(text) <= LONGEST_SHOWN else distinct(text)


def character_problem(value: str) -> str | None:
    """What keeps a string from being ordinary text, if anything."""
    if "\0" in value:
        return "NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:  # from surrogateescape, or a lone surrogate spelt out in JSON
        return "broken UTF-8"
    return None


def text_problem(text: object, role: str = "text") -> str | None:
    """Why a cell cannot be used as a text, if so; `role` is what the text is called."""
    if text is None:
        return f"missing {role}"
    if not isinstance(text, str):
        return f"{role} is not a string but {type(text).__name__}"
    return character_problem(text) if text.strip() else f"empty {role}"
