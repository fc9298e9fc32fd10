"""The videos of one checkpoint, made by a process beside the workers. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ray_s2v.config.job import Job
from ray_s2v.schema import RunStopped, UserError
from ray_s2v.validation.video import for_one, make_videos


def make_all(
    job: Job, adapter: Path, folder: Path, tell: Callable[[str], object], previewed: Callable[[str, Path], object]
) -> dict[str, str]:
    """Makes `folder/NAME.mp4` of every scene of the job; returns why some could not be made, by name.

    adapter: a folder of PEFT's. `tell` gets what is being done, `previewed` as in make_videos.
    """
    assert job.validation
    device = torch.device("cuda" if job.validation.gpus else "cpu")
    scenes = {folder / f"{scene.name}.mp4": scene for scene in job.validation.all_scenes()}

    def progress(name: str, done: int, total: int) -> None:
        tell(f"{name}: step {done} of {total}")

    tell("the network is being loaded")
    try:
        failed = make_videos(for_one(job, job.validation.gpus), scenes, adapter, 1.0, device, tell, progress, previewed)
    except (UserError, RunStopped, OSError) as error:
        failed = dict.fromkeys(scenes, str(error))
    return {scenes[path].name: reason for path, reason in failed.items()}
