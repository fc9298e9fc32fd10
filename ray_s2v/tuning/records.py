"""How each trial stands, on disk: what the driver has been told, so that nothing hangs on Ray Tune's own state."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ray_s2v.reporting.trials import TrialRecord
from ray_s2v.tuning.folder import write_whole

FINAL = ("done", "stopped early")


def trial_folder(sweep_folder: Path, name: str) -> Path:
    return sweep_folder / "trials" / name


def load_record(folder: Path) -> TrialRecord | None:
    """The record in a trial's folder, if there is one."""
    try:
        found: dict[str, Any] = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return TrialRecord(**{**found, "points": [(step, loss) for step, loss in found["points"]]})


def save_record(folder: Path, record: TrialRecord) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "trial.json", json.dumps(asdict(record), indent=1) + "\n")


def load_records(sweep_folder: Path) -> list[TrialRecord]:
    """Of all trials, in the order of their names."""
    folders = sorted((sweep_folder / "trials").glob("trial_*"), key=lambda folder: (len(folder.name), folder.name))
    return [record for folder in folders if (record := load_record(folder))]


def with_point(record: TrialRecord, folder: str, values: dict[str, Any], step: int, loss: float) -> TrialRecord:
    """The record after a measurement. A run that begins in another folder takes the place of what came after its beginning; what a
    run measures again after a kill is what it was.
    """
    if folder != record.folder:
        kept = [point for point in record.points if point[0] < step]
        return replace(record, folder=folder, values=values, points=[*kept, (step, loss)])
    if step in {known for known, _ in record.points}:
        return record
    return replace(record, points=sorted([*record.points, (step, loss)]))
