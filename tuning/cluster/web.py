"""Whether a web server answers."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request


def problem_at(url: str, *, seconds: float = 10, refusals: bool = True) -> str | None:
    """Why a GET fails; None when it succeeds, or when the server refuses it and `refusals` is false."""
    try:
        with urllib.request.urlopen(url, timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        return str(error.reason) if refusals else None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
