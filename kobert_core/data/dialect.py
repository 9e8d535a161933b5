"""How a study says that files of text are written."""

from __future__ import annotations

import codecs
from dataclasses import asdict, dataclass

UTF_8 = "utf-8-sig"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How text is to be read, where that is not what the file's name and content say."""

    encoding: str | None = None
    """As for `encoding_of`."""
    delimiter: str | None = None
    """Between two fields; a tab in `.tsv` and `.txt`, a comma in `.csv`, when not given."""
    header: bool = True
    """Whether the first line, also of a sheet, has the names of the columns; else they are 0, 1, 2 …"""

    def key(self) -> dict[str, object]:
        """For keys of caches: what is not as it is by default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Dialect, name)}


DEFAULT = Dialect()


def codec_name(encoding: str) -> str:
    """Python's name of an encoding. EUC-KR is CP949, which has all of it: what is called so often has more.

    Raises:
        ValueError: it is no encoding of text.
    """
    try:
        "".encode(encoding)
        name = codecs.lookup(encoding).name
    except LookupError:
        raise ValueError(f"no encoding {encoding!r} is known; take utf-8, cp949, euc-kr or utf-16") from None
    return {"euc_kr": "cp949", "utf-8": UTF_8}.get(name, name)
