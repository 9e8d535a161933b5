"""The command line."""

from __future__ import annotations

from tuning.api.process_end import ProcessEnd


def main() -> None:
    """The program `kobert-tune`; the process ends with it."""
    with ProcessEnd().of():
        from tuning.cli import app  # registers exit handlers of libraries: they come after, and are called before

        app.main()
