"""The videos of one checkpoint, made by a process beside the workers. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ray_s2v.config.job import Job
from ray_s2v.schema import RunStopped, UserError
from ray_s2v.validation.video import for_one, make_videos


def make_all(
    job: Job, adapters: Path, folder: Path, tell: Callable[[str], object], previewed: Callable[[str, Path], object]
) -> dict[str, str]:
    """Makes `folder/NAME.mp4` of every scene and with all weights that the job wants; returns why some could not be made, by name.

    adapters: a folder that holds PEFT's folders `online` and `ema`, as far as they are wanted. `tell` gets what is being done, `previewed`
    as in make_videos.
    """
    assert job.validation
    settings = job.validation
    device = torch.device("cuda" if settings.gpus else "cpu")

    def progress(name: str, done: int, total: int) -> None:
        tell(f"{name}: step {done} of {total}")

    failed: dict[str, str] = {}
    for weights in settings.made_with():
        names = {settings.video_name(scene.name, weights): scene for scene in settings.all_scenes()}
        scenes = {folder / f"{name}.mp4": scene.model_copy(update={"name": name}) for name, scene in names.items()}
        tell("the network is being loaded")
        try:
            could_not = make_videos(for_one(job, settings.gpus), scenes, adapters / weights, 1.0, device, tell, progress, previewed)
        except (UserError, RunStopped, OSError) as error:
            could_not = dict.fromkeys(scenes, str(error))
        failed |= {path.stem: reason for path, reason in could_not.items()}
    return failed
