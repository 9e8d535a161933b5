"""`python -m tuning` is `kobert-tune`."""

from __future__ import annotations

from tuning.cli import main

if __name__ == "__main__":
    main()
