"""What a push sends: a folder with an adapter, its card, its settings, the picture of its losses and the newest samples.

README.md  job.yaml  loss.png  adapter_config.json  adapter_model.safetensors  validation/SCENE.mp4
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ray_s2v.config.hub import Hub
from ray_s2v.config.job import Job
from ray_s2v.job_file import dump_job
from ray_s2v.model.lora import ADAPTER_FILE
from ray_s2v.reporting.losses import DPI, losses_of, losses_picture
from ray_s2v.reporting.model_card import model_card
from ray_s2v.reporting.public_job import public_job
from ray_s2v.reporting.report.recorded import Recorded, read_run

ADAPTER = (ADAPTER_FILE, "adapter_config.json")


def fill_folder(folder: Path, run: Path, adapter: Path, job: Job, hub: Hub, steps: int | None) -> None:
    """Writes the folder, in the place of an earlier one. Raises OSError, and ConfigError where files of the run are damaged.

    run: the run's folder, wherever it lies now. adapter: its folder, taken after `steps`, None for the end.
    """
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "validation").mkdir(parents=True)
    for name in ADAPTER:
        shutil.copyfile(adapter / name, folder / name)
    recorded = read_run(run)
    video_steps, videos = _newest_videos(recorded, steps)
    for name, video in videos.items():
        shutil.copyfile(run / video, folder / _place(name))
    losses = losses_of(recorded, steps)
    losses_picture(losses).savefig(folder / "loss.png", format="png", dpi=DPI)
    (folder / "job.yaml").write_text(dump_job(public_job(job)), encoding="utf-8")
    card = model_card(job, hub, losses, {name: _place(name) for name in videos}, video_steps)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _place(scene: str) -> str:
    """In the repository: the same after each validation, so that a push replaces the last one's."""
    return f"validation/{scene}.mp4"


def _newest_videos(run: Recorded, steps: int | None) -> tuple[int | None, dict[str, str]]:
    """The steps done at the last validation that made videos which are still there, and those, by scene."""
    for line in reversed(run.validations):
        there = {name: video for name, video in line["videos"].items() if (run.folder / video).is_file()}
        if there and (steps is None or line["step"] <= steps):
            return line["step"], there
    return None, {}
