"""The command line."""

from __future__ import annotations

from tuning.cli.app import main

__all__ = ["main"]
