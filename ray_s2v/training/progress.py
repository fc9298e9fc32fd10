"""How far a run has come: its complete checkpoints and the position that each holds. Light: no torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ray_s2v.config.job import Job
from ray_s2v.data.features import Features
from ray_s2v.data.plan import Plan
from ray_s2v.schema import ConfigError, PlanRow

NAME = re.compile(r"step_(\d{6,})")


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `step` steps are done; the next is step number `step`."""

    step: int
    plan: str  # fingerprint


@dataclass(frozen=True)
class Assignment:
    """What every process of a run must know."""

    job: Job
    plan: Plan
    held_out: list[PlanRow]  # as shared out among the workers
    fingerprint: str  # of the plan; of a million clips it takes seconds
    features: Features
    num_steps: int
    start_from: Path | None  # the checkpoint that the run began with, if not at step 0

    @property
    def checkpoints(self) -> Path:
        return Path(self.job.run.folder) / "checkpoints"

    def resume_from(self) -> Path | None:
        """The newest checkpoint of this run, also after a restart of the workers; else where the run began."""
        there = complete_checkpoints(self.checkpoints)
        return there[-1][1] if there else self.start_from

    def first_step(self) -> int:
        checkpoint = self.resume_from()
        return load_progress(checkpoint).step if checkpoint else 0


def complete_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of every checkpoint in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))


def load_progress(checkpoint: Path) -> Progress:
    """Where the run of this checkpoint stood. Raises ConfigError if the folder is no checkpoint."""
    try:
        progress = Progress(**json.loads((checkpoint / "progress.json").read_text()))
        if type(progress.step) is not int or progress.step < 0 or not isinstance(progress.plan, str):
            raise ValueError(f"{progress} is no position in a plan")
        return progress
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{checkpoint} is no checkpoint of ray_s2v: {error}") from error
