"""Makes the pictures of the README from a real run: `make pictures`.

Runs the quickstart's sweep in a terminal of its own, draws what this shows at the end as an SVG, and takes
the learning curves of the sweep's report in headless Chromium.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import sys
import tempfile
import termios
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyte
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.fixtures.browser import screenshot
from tests.fixtures.commands import ROOT, environment

HERE = Path(__file__).parent
COLUMNS, ROWS = 120, 60
COMMAND = ["kobert-tune", "sweep", "quickstart.yaml", "--trials", "8"]


def main() -> None:
    folder = Path(tempfile.gettempdir(), "reviews")  # what is printed has its name
    folder.mkdir()
    try:
        for path in ("quickstart.yaml", "sample"):
            (folder / path).symlink_to(ROOT / "search_spaces" / path)
        screen = shown([sys.executable, "-m", "tuning", *COMMAND[1:]], folder)
        (HERE / "terminal.svg").write_text(svg(screen, " ".join(COMMAND)), encoding="utf-8")
        picture_of_report(folder / "sweeps" / "quickstart" / "report.html", HERE / "report.png")
    finally:
        shutil.rmtree(folder)


def shown(command: Sequence[str], folder: Path) -> list[Text]:
    """The lines of a terminal in which a command has run to its end."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, environment() | {"TERM": "xterm-256color", "COLORTERM": "truecolor"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=1000)
    stream = pyte.ByteStream(screen)
    while True:
        try:
            stream.feed(os.read(terminal, 1 << 16))
        except OSError:  # the other end is closed
            break
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("\n".join(screen.display))
    rows = [*screen.history.top, *(screen.buffer[row] for row in range(ROWS))]
    lines = [line(row) for row in rows]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def line(row: dict[int, pyte.screens.Char]) -> Text:
    """A row of the terminal with its styles."""
    cells = [(row[column].data, style(row[column])) for column in range(COLUMNS)]
    runs = groupby(cells, key=itemgetter(1))
    text = Text.assemble(*(("".join(data for data, _ in run), shape) for shape, run in runs))
    text.rstrip()
    return text


def style(cell: pyte.screens.Char) -> Style:
    """That of one place of the terminal."""
    return Style(color=colour(cell.fg), bold=cell.bold, italic=cell.italics)


def colour(name: str) -> str | None:
    """rich's name of a colour of pyte."""
    if name == "default":
        return None
    named = {"brown": "yellow", "brightbrown": "bright_yellow"}.get(name, name)
    return f"#{named}" if re.fullmatch(r"[0-9a-f]{6}", named) else re.sub("^bright(?=[a-z])", "bright_", named)


def svg(lines: list[Text], title: str) -> str:
    """The lines as a picture that asks no network for its fonts."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        for text in lines:
            console.print(text, soft_wrap=True)
        drawn = console.export_svg(title=title, unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL).replace("Fira Code", "ui-monospace")


def picture_of_report(page: Path, png: Path) -> None:
    """The top of a report with its learning curves, in as few colours as they need."""
    hidden = "<style>main > section:not(#learning-curves) { display: none }</style>"
    part = page.with_name("part.html")
    part.write_text(page.read_text(encoding="utf-8").replace("</head>", f"{hidden}</head>"), encoding="utf-8")
    screenshot(part.as_uri(), png, width=1200, height=740)
    Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(png, optimize=True)


if __name__ == "__main__":
    main()
