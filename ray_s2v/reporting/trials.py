"""Trials of a sweep: how each stands, in a table and as CSV, and which is the best."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray_s2v.reporting.table import WIDTH, end_of, start_of, table

State = Literal["waiting", "running", "done", "stopped early", "failed"]
STATES: tuple[State, ...] = ("done", "stopped early", "failed", "running", "waiting")
MAX_LISTED = 50  # trials
NAME_WIDTH = 24
VALUE_WIDTH = 20


@dataclass(frozen=True)
class TrialRecord:
    """How a trial stands."""

    name: str
    values: dict[str, Any]  # of the swept settings, by section.key
    state: State
    points: list[tuple[int, float]]  # steps done and the loss of the held-out clips, each step once, in order
    error: str  # why it failed; else empty
    folder: str  # of its run

    @property
    def steps(self) -> int:
        """Done when the loss was last taken; -1 where it never was."""
        return self.points[-1][0] if self.points else -1

    @property
    def loss(self) -> float | None:
        """The last one."""
        return self.points[-1][1] if self.points else None


def best_of(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The lowest last loss among the trials that came furthest and did not fail; None where there is no loss."""
    return next((record for record in ranked(records) if record.state != "failed" and record.points), None)


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """From the best: those that came further first, as only losses of the same step compare, then by loss; failed ones last."""

    def place(record: TrialRecord) -> tuple[bool, int, float]:
        return record.state == "failed", -record.steps, 0.0 if record.loss is None else record.loss

    return sorted(records, key=place)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Of each key as many of its last words as tell it from the others, and never a number first."""
    names = list(keys)
    return {key: _short(key, [other for other in names if other != key]) for key in names}


def trials_table(records: Sequence[TrialRecord]) -> str:
    """How many there are of each state, then a line a trial, from the best; at most 120 characters wide."""
    best, order = best_of(records), ranked(records)
    shown, listed = list(short_names(_keys(records)).items()), order[:MAX_LISTED]
    lines = _rows(listed, shown, best)
    while len(lines[0]) > WIDTH and shown:
        shown.pop()
        lines = _rows(listed, shown, best)
    counts = Counter(record.state for record in records)
    counted = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"{len(records)} trials: {counted}; loss: of the held-out clips, after so many steps", *lines]
    if hidden := [key for key in _keys(records) if key not in dict(shown)]:
        lines.append(start_of(f"  not shown, but in sweep.csv: {', '.join(hidden)}", WIDTH))
    if len(order) > MAX_LISTED:
        lines.append(f"  and {len(order) - MAX_LISTED} more, in sweep.csv")
    errors = [f"  {end_of(record.name, NAME_WIDTH)} failed: {' '.join(record.error.split())}" for record in order if record.error]
    lines += [start_of(line, WIDTH) for line in errors[:MAX_LISTED]]
    return "\n".join(lines)


def sweep_csv(records: Sequence[TrialRecord]) -> str:
    """A line a trial, from the best, as RFC 4180 says: its lines end in CR LF, so write it with newline=""."""
    file = io.StringIO()
    writer, keys, best = csv.writer(file), _keys(records), best_of(records)
    writer.writerow(["trial", "best", "state", "steps", "loss", "lowest_loss", *keys, "folder", "error"])
    for record in ranked(records):
        lowest = min((loss for _, loss in record.points), default=None)
        figures = [record.steps if record.points else None, record.loss, lowest]
        values = [_exact(record.values[key]) if key in record.values else "" for key in keys]
        writer.writerow([record.name, "yes" if record is best else "", record.state, *figures, *values, record.folder, record.error])
    return file.getvalue()


def shown_value(value: Any) -> str:
    """Of a setting, in few characters."""
    text = f"{value:.4g}" if isinstance(value, float) else _exact(value)
    return start_of(text if text.isprintable() else repr(text), VALUE_WIDTH)


def _rows(records: Sequence[TrialRecord], shown: Sequence[tuple[str, str]], best: TrialRecord | None) -> list[str]:
    rows, states = [], [record.state + (", the best" if record is best else "") for record in records]
    for record, state in zip(records, states, strict=True):
        values = [shown_value(record.values[key]) if key in record.values else "" for key, _ in shown]
        figures = ["", ""] if record.loss is None else [str(record.steps), f"{record.loss:.5f}"]
        name = ("* " if record is best else "  ") + end_of(record.name, NAME_WIDTH)
        rows.append([name, *values, *figures, state.ljust(max(map(len, states)))])
    return [
        line.rstrip()
        for line in table(["  trial", *(name for _, name in shown), "steps", "loss", "state".ljust(max(map(len, states), default=0))], rows)
    ]


def _keys(records: Iterable[TrialRecord]) -> list[str]:
    return list(dict.fromkeys(key for record in records for key in record.values))


def _short(key: str, others: Sequence[str]) -> str:
    words = key.split(".")
    for count in range(1, len(words)):
        name = ".".join(words[-count:])
        if not words[-count].isdigit() and not any(f".{other}".endswith(f".{name}") for other in others):
            return name
    return key


def _exact(value: Any) -> str:
    """As a job file gives it: text as it is, true and null and lists as YAML reads them."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
