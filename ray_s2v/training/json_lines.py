"""Files of JSON lines that a run adds to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def open_lines(path: Path, lost: Callable[[OSError], object] | None = None) -> Callable[[dict[str, Any]], None]:
    """Adds a line to the file, which need not be there. Half a line, as a kill may have left it, is taken out first.

    lost: is told once where the disk takes no more, and the lines wait until it does again; without it OSError is raised.
    """
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    waiting: list[str] = []
    cut_at: int | None = None  # where an attempt that failed began

    def add(line: dict[str, Any]) -> None:
        nonlocal cut_at
        waiting.append(json.dumps(line) + "\n")
        try:
            with path.open("ab") as file:
                if cut_at is not None:
                    file.truncate(cut_at)
                cut_at = file.seek(0, os.SEEK_END)
                file.write("".join(waiting).encode())
        except OSError as error:
            if not lost:
                raise
            if len(waiting) == 1:
                lost(error)
            return
        cut_at = None
        waiting.clear()

    return add
