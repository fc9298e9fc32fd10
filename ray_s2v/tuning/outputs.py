"""What a sweep leaves for a person: a table, the best job, a picture."""

from __future__ import annotations

from pathlib import Path

from ray_s2v.config.sweep import Sweep
from ray_s2v.reporting.best_job import best_job
from ray_s2v.reporting.trials import TrialRecord, best_of, sweep_csv
from ray_s2v.reporting.trials_picture import save_picture
from ray_s2v.tuning.folder import write_whole
from ray_s2v.tuning.records import load_records

CSV, BEST, PICTURE = "sweep.csv", "best.yaml", "sweep.png"


def renew(sweep: Sweep, name: str, folder: Path, store: str) -> list[TrialRecord]:
    """Writes the sweep's files as its trials stand, and returns how they do. name: of the sweep's own file."""
    records = load_records(folder)
    write_whole(folder / CSV, sweep_csv(records))
    if best := best_of(records):
        write_whole(folder / BEST, best_job(sweep, name, best, str(folder / "best"), store))
        save_picture(folder / PICTURE, records, sweep.space)
    return records
