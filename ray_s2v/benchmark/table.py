"""Reports as plain text, with the words of the JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

KINDS = ("first", "continuation", "mixed")
WIDTH = 120
NAMES = 26
CELL = 14
# Of a comparison: what stands where in a report.
COLUMNS = (
    ("first", "step_ms"),
    ("first", "speed"),
    ("continuation", "step_ms"),
    ("continuation", "speed"),
    ("mixed", "clips_per_hour"),
    ("mixed", "speed"),
    ("mixed", "allocated_gib"),
    ("", "host_gib"),
    ("first", "loss"),
    ("continuation", "loss"),
)


def run_table(report: dict[str, Any]) -> str:
    """One report: what was measured, then a row for each figure and a column for each kind of batch."""
    kinds = {kind: _rows(report[kind]) for kind in KINDS if kind in report}
    described = {key: _shown(value) for key, value in report.items() if key not in (*KINDS, "settings")}
    described["settings"] = " ".join(f"{key}={_setting(value)}" for key, value in report["settings"].items())
    lines = [line for key, text in described.items() for line in _wrapped(key, text)]
    lines += ["", f"{'':<{NAMES}}  " + "  ".join(f"{kind:>{CELL}}" for kind in kinds)]
    # `mixed` has some of the rows that the others have.
    for row in next(iter(kinds.values())):
        cells = [_shown(rows[row]) if row in rows else "" for rows in kinds.values()]
        lines.append(f"{row:<{NAMES}}  " + "  ".join(f"{cell:>{CELL}}" for cell in cells).rstrip())
    return "\n".join(lines)


def _rows(figures: dict[str, Any]) -> dict[str, Any]:
    """Of one kind of batch; what is nested has dotted names."""
    rows: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, dict):
            rows |= {f"{key}.{part}": figure for part, figure in value.items()}
        elif key != "steps":
            rows[key] = value
    return rows


def comparison_table(runs: Sequence[dict[str, Any]]) -> str:
    """A row for each run: its figures, or why there are none."""
    columns = [column for column in COLUMNS if any(_figure(run, *column) is not None for run in runs)]
    names = max(len("name"), *(len(run["name"]) for run in runs))
    widths = [max(len(kind), len(key), 8) for kind, key in columns]
    heads = [[kind for kind, _ in columns], [key for _, key in columns]]
    lines = [
        f"{first:<{names}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for first, cells in zip(("", "name"), heads, strict=True)
    ]
    for run in runs:
        if "failed" in run:
            lines.append(f"{run['name']:<{names}}  failed: {run['failed']}")
            continue
        cells = (_shown(_figure(run, *column)) for column in columns)
        lines.append(f"{run['name']:<{names}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    return "\n".join(lines)


def _figure(run: dict[str, Any], kind: str, key: str) -> Any:
    return (run.get(kind, {}) if kind else run).get(key)


def _setting(value: Any) -> str:
    """As an override gives it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _wrapped(name: str, text: str) -> list[str]:
    rows = textwrap.wrap(text, WIDTH - NAMES - 2, break_long_words=False, break_on_hyphens=False)
    return [f"{name if number == 0 else '':<{NAMES}}  {row}" for number, row in enumerate(rows)]


def _shown(value: Any) -> str:
    """Of a list with a value a worker the largest; a dash for what is not there, as a CPU's GPU memory."""
    if isinstance(value, list):
        return "-" if None in value else _shown(max(value))
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    return "-" if value is None else str(value)
