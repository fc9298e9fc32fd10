"""Assignments of runs of eight drawn clips, for what needs no network."""

from pathlib import Path
from typing import Any

from ray_s2v.config.job import Job
from ray_s2v.data.features import Features
from ray_s2v.data.plan import Plan
from ray_s2v.training.progress import Assignment
from tests.plans import BUCKETS, job, many


def assignment(folder: Path, steps: int, checkpoint: dict[str, Any]) -> Assignment:
    """Of a run of so many steps in a folder, with these settings of its checkpoints."""
    settings = job(slots=4, steps=steps).model_dump() | {"run": {"folder": str(folder)}, "checkpoint": checkpoint}
    here = Job.model_validate(settings)
    features = Features("", streams=True, vae="vae", speech="speech", text="text", dtype="fp16")
    return Assignment(here, Plan.of(here, many(8, 200, BUCKETS[3])), [], "plan", features, steps, None)
