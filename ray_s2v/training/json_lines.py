"""Files of JSON lines that a run adds to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def open_lines(path: Path) -> Callable[[dict[str, Any]], None]:
    """Adds a line to the file, which need not be there. Half a line, as a kill may have left it, is taken out first."""
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")
        os.truncate(path, len(whole[0] + whole[1]))

    def add(line: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    return add
