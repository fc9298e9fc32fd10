"""Validation videos made by the training workers between two steps, where there is no GPU beside them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ray_s2v.config.job import Job
from ray_s2v.config.sampling import Sampling
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.media.write import write_video
from ray_s2v.model.flow import VelocityModel
from ray_s2v.ranks import everyone
from ray_s2v.schema import FRAME_RATE
from ray_s2v.training.json_lines import open_lines
from ray_s2v.training.lack_of_memory import is_lack_of_memory
from ray_s2v.validation.preview import Previewer
from ray_s2v.validation.sampler import lost_frames, num_clips, sampled_clips
from ray_s2v.validation.video import Shot, pictures_of, shots_of

TELL_EVERY_S = 30.0
Send = Callable[[dict[str, Any]], object]


class OnWorkers:
    """What training/worker.py calls so. Made on the driver; each worker has its own."""

    def __init__(self, job: Job, num_steps: int) -> None:
        assert job.validation
        self.job, self.settings, self.num_steps = job, job.validation, num_steps
        self.run = Path(job.run.folder)
        self.shots: dict[str, Shot] = {}  # by the scene's name, on the CPU
        self.unreadable: dict[str, str] = {}
        self.add_line: Callable[[dict[str, Any]], None] | None = None

    def prepare(self, device: torch.device) -> None:
        """Encodes the scenes, before there is a network on the device. Raises ConfigError where an encoder does not load."""
        scenes = {Path(scene.name): scene for scene in self.settings.all_scenes()}
        vae = VideoEncoder(self.job.encoders.vae.path, str(device))
        shots, failed = shots_of(self.job, scenes, vae, device)
        self.shots = {path.name: _moved(shot, torch.device("cpu")) for path, shot in shots.items()}
        self.unreadable = {path.name: reason for path, reason in failed.items()}

    def due(self, steps_done: int) -> bool:
        return self.settings.due(steps_done, self.num_steps)

    def make(
        self,
        network: VelocityModel,
        steps_done: int,
        device: torch.device,
        send: Send,
        averaged: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, Any] | None:
        """What came of the videos of what the network has learnt, as a line of validation.jsonl, on the first worker. A collective.

        Each worker makes every so manieth video; under ZeRO-3, where all must go through the network together, all make all of them, and
        the first keeps them. `send` gets {"note": ...} and {"preview": ...}.
        """
        home = self.run / "validation" / f"step_{steps_done:06d}"
        home.mkdir(parents=True, exist_ok=True)
        rank, workers = dist.get_rank(), dist.get_world_size()
        together = self.job.zero.stage == 3
        vae = VideoEncoder(self.job.encoders.vae.path, str(device))
        failed: dict[str, str] = {}
        for weights in self.settings.made_with():
            with averaged() if weights == "ema" else nullcontext():
                own = list(self.shots.items())[slice(None) if together else slice(rank, None, workers)]
                named = [(self.settings.video_name(scene, weights), shot) for scene, shot in own]
                failed |= self._all(network, vae, named, home, steps_done, device, send, together)
            failed |= {self.settings.video_name(scene, weights): reason for scene, reason in self.unreadable.items()}
        failed = {name: reason for share in everyone(failed) for name, reason in share.items()}
        if rank:
            return None
        made = [name for name in self.settings.video_names() if name not in failed]
        videos = {name: (home / f"{name}.mp4").relative_to(self.run).as_posix() for name in made}
        line = {"step": steps_done, "videos": videos, "failed": failed}
        if not self.add_line:
            self.add_line = open_lines(self.run / "validation.jsonl", lambda error: send({"note": f"videos are not noted: {error}"}))
        self.add_line(line)
        return line

    def _all(
        self,
        network: VelocityModel,
        vae: VideoEncoder,
        named: Sequence[tuple[str, Shot]],
        home: Path,
        steps_done: int,
        device: torch.device,
        send: Send,
        together: bool,
    ) -> dict[str, str]:
        """Makes this worker's videos; why some could not be made."""
        turns = Turns(sum(num_clips(shot.shown.speech.shape[-1], self.job.sampling) for _, shot in named))
        failed, is_kept = {}, not together or dist.get_rank() == 0
        for name, shot in named:
            told = _Told(self.job.sampling, self.run, home / name, steps_done, device, send if is_kept else None)
            frames = self._frames(network, vae, _moved(shot, device), turns, told)
            try:
                if is_kept:
                    write_video(home / f"{name}.mp4", frames, FRAME_RATE, shot.sound, shot.sample_rate)
                else:
                    deque(frames, maxlen=0)
            except (OSError, RuntimeError, MemoryError) as error:
                if together or not (isinstance(error, OSError) or is_lack_of_memory(error)):
                    raise
                failed[name] = str(error).partition("\n")[0]
        turns.rest()
        return failed

    def _frames(self, network: VelocityModel, vae: VideoEncoder, shot: Shot, turns: Turns, told: _Told) -> Iterator[Any]:
        settings, num_frames = self.job.sampling, shot.shown.speech.shape[-1]
        told.num_steps = num_clips(num_frames, settings) * settings.steps
        clips = turns.each(sampled_clips(network, vae, shot.shown, settings, told))
        return pictures_of(clips, num_frames - lost_frames(settings))


class Turns:
    """Clips that workers make side by side, each after the others' one before: whoever waits in a collective does not wait for long."""

    def __init__(self, own: int) -> None:
        self.left = max(everyone(own))

    def each(self, clips: Iterator[Tensor]) -> Iterator[Tensor]:
        for clip in clips:
            self._turn()
            yield clip

    def rest(self) -> None:
        """The turns of the others."""
        while self.left:
            self._turn()

    def _turn(self) -> None:
        everyone(None)
        self.left -= 1


class _Told:
    """What is told of a video while it is made; called with clip, step and latents."""

    def __init__(
        self,
        settings: Sampling,
        run: Path,
        video: Path,
        steps_done: int,
        device: torch.device,
        send: Send | None,
    ) -> None:
        self.settings, self.run, self.video, self.steps_done, self.send = settings, run, video, steps_done, send
        self.num_steps, self.told_at = 0, time.monotonic()
        wanted = settings.previews if send else None
        self.previewer = Previewer(wanted, settings.steps, device, self._previewed) if wanted else None

    def __call__(self, clip: int, step: int, latents: Tensor) -> None:
        if self.previewer:
            self.previewer.look(self.video, clip, step, latents)
        if self.send and time.monotonic() - self.told_at >= TELL_EVERY_S:
            self.told_at = time.monotonic()
            done = clip * self.settings.steps + step
            self.send({"note": f"videos of step {self.steps_done}: {self.video.name}: step {done} of {self.num_steps}"})

    def _previewed(self, file: Path) -> None:
        assert self.send
        preview = {"step": self.steps_done, "scene": self.video.name, "video": file.relative_to(self.run).as_posix()}
        self.send({"preview": preview})


def _moved(shot: Shot, device: torch.device) -> Shot:
    shown = shot.shown
    return replace(shot, shown=replace(shown, **{name: tensor.to(device) for name, tensor in vars(shown).items()}))
