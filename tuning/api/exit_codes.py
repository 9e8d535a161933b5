"""How a command or a driver ends, for whoever started it."""

from __future__ import annotations

EXIT_NOTHING_WON, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
