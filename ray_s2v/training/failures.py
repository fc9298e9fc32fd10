"""What went wrong, out of Ray's long texts."""

from __future__ import annotations

import re
import textwrap

MAX_SHOWN = 300  # characters


def first_cause(error: Exception) -> str:
    """The line of an error's text that names the first exception; Ray's texts hold whole tracebacks and end in advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    named = next((line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit): ", line)), lines[-1])
    return textwrap.shorten(named, MAX_SHOWN)
