"""How far a run has come: its complete checkpoints and the position that each holds. Light: no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ray_s2v.config.job import Job
from ray_s2v.data.features import Features
from ray_s2v.data.plan import Plan
from ray_s2v.schema import ConfigError, PlanRow
from ray_s2v.training.contents import damage

NAME = re.compile(r"step_(\d{6,})")


class NoneWhole(ConfigError):
    """A run's folder has checkpoints, and all of them are damaged."""


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
    held_out: list[PlanRow]  # before they are shared out among however many workers there are
    fingerprint: str  # of the plan; of a million clips it takes seconds
    features: Features
    num_steps: int
    start_from: Path | None  # the checkpoint that the run began with, if not at step 0

    @property
    def checkpoints(self) -> Path:
        return Path(self.job.run.folder) / "checkpoints"

    def resume_from(self, told: Callable[[str], object] = lambda _: None) -> Path | None:
        """The newest whole checkpoint of this run, also after a restart of the workers; else where the run began.

        `told` as for `newest_whole`. Raises NoneWhole.
        """
        return newest_whole(self.checkpoints, told) or self.start_from

    def first_step(self, told: Callable[[str], object] = lambda _: None) -> int:
        checkpoint = self.resume_from(told)
        return load_progress(checkpoint).step if checkpoint else 0


def checkpoint_name(step: int) -> str:
    return f"step_{step:06d}"


def complete_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of every checkpoint in a folder, oldest first. All were complete once."""
    if not folder.is_dir():
        return []
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))


def newest_whole(folder: Path, told: Callable[[str], object]) -> Path | None:
    """The newest checkpoint in a folder whose files all are as they were written; None where there is no checkpoint.

    `told` gets a line where newer ones are damaged. Raises NoneWhole, which names each, where all are.
    """
    damaged: list[str] = []
    for _, path in reversed(complete_checkpoints(folder)):
        reason = damage(path)
        if not reason:
            if damaged:
                told(f"damaged checkpoints are passed over: {'; '.join(damaged)}. The newest whole one is {path.name}")
            return path
        damaged.append(f"{path.name} ({reason})")
    if damaged:
        listed = "\n".join(f"  {line}" for line in damaged)
        raise NoneWhole(
            f"{folder}: every checkpoint is damaged; none was changed:\n{listed}\n"
            "Put a whole copy in the place of one, remove them all to begin anew, or take a new run.folder"
        )
    return None


def load_progress(checkpoint: Path) -> Progress:
    """Where the run of this checkpoint stood. Raises ConfigError if the folder is no checkpoint."""
    try:
        progress = Progress(**json.loads((checkpoint / "progress.json").read_text()))
        if type(progress.step) is not int or progress.step < 0 or not isinstance(progress.plan, str):
            raise ValueError(f"{progress} is no position in a plan")
        return progress
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{checkpoint} is no checkpoint of ray_s2v: {error}") from error
