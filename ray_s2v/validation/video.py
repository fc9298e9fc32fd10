"""A video file from a picture, a prompt and speech."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ray_s2v.config.job import Job, Pool, Tread, Zero
from ray_s2v.config.sampling import Sampling
from ray_s2v.config.validation import Scene
from ray_s2v.encoders.speech import SpeechEncoder
from ray_s2v.encoders.text import TextEncoder
from ray_s2v.encoders.vae import VideoEncoder, scaled
from ray_s2v.media.audio import read_audio
from ray_s2v.media.container import has_pictures
from ray_s2v.media.stored_sound import stored_sound
from ray_s2v.media.write import write_video
from ray_s2v.model.lora import fill_adapter, load_adapter
from ray_s2v.schema import FRAME_RATE, SAMPLES_PER_FRAME, Bucket, ClipError, ConfigError
from ray_s2v.training.lack_of_memory import is_lack_of_memory
from ray_s2v.training.network import Checkpoint, job_lora, network_for_training
from ray_s2v.validation.preview import Previewer
from ray_s2v.validation.sampler import Conditions, lost_frames, num_clips, sampled_clips
from ray_s2v.validation.sizing import picture_of, still

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True)
class Shot:
    """What a scene's video is made from, on the device of the network."""

    shown: Conditions
    sound: NDArray[np.float32]  # [channels, samples], the file's own, of the frames that will be there
    sample_rate: int


def check_scene(scene: Scene) -> None:
    """Raises ConfigError listing what of it cannot be read."""
    wrong = []
    try:
        still(scene.picture)
    except (OSError, ClipError, Image.DecompressionBombError) as error:
        wrong.append(f"picture {scene.picture}: {error}")
    try:
        read_audio(scene.speech, _pictures_beside(scene.speech), 0, 1)
    except (OSError, ClipError) as error:
        wrong.append(f"speech {scene.speech}: {error}")
    if wrong:
        raise ConfigError("\n".join(wrong))


def make_videos(
    job: Job,
    scenes: Mapping[Path, Scene],
    adapter: Path | None,
    weight: float,
    device: torch.device,
    note: Callable[[str], object],
    progress: Progress,
    previewed: Callable[[str, Path], object],
) -> dict[Path, str]:
    """Writes each scene's video, with the file's own sound in step, to its path, where it appears only when it is whole.

    Returns why some could not be made. `previewed` gets the scene's name and the file of each preview, which lie in the video's path
    without its suffix. job: as for_one gives it. adapter: a folder of PEFT's; None for the network as it is.
    weight: of the adapter, 1 as trained.
    Raises ConfigError where no video can be made.
    """
    vae = VideoEncoder(job.encoders.vae.path, str(device))
    shots, failed = shots_of(job, scenes, vae, device)
    if not shots:
        return failed
    sides = {tuple(shot.shown.picture.shape[:2]) for shot in shots.values()}
    height, width = max(sides, key=lambda sides: sides[0] * sides[1])
    network = _network(job, adapter, weight, Bucket(width, height, job.sampling.num_frames), device, note)
    for path, shot in shots.items():
        name = scenes[path].name
        previews = (
            Previewer(settings, job.sampling.steps, device, partial(previewed, name)) if (settings := job.sampling.previews) else None
        )
        try:
            _film(job.sampling, network, vae, shot, path, partial(progress, name), previews)
        except OSError as error:
            failed[path] = str(error)
        except (RuntimeError, MemoryError) as error:
            if not is_lack_of_memory(error):
                raise
            failed[path] = f"memory ran out: {str(error).partition(chr(10))[0]}. Less take a smaller sampling.size or sampling.num_frames"
    return failed


def for_one(job: Job, gpus: float) -> Job:
    """The job as one process sees it that makes videos: a GPU's share for itself, nothing sharded, all tokens through all blocks."""
    alone = {
        "workers": Pool(max=1),
        "batch_size": 1,
        "worker_gpus": gpus,
        "gpu_memory_gib": None,
        "host_memory_gib": None,
        "continuation": 1.0,
    }
    training = job.training.model_copy(update=alone)
    return job.model_copy(update={"training": training, "zero": Zero(), "tread": Tread()})


def shots_of(job: Job, scenes: Mapping[Path, Scene], vae: VideoEncoder, device: torch.device) -> tuple[dict[Path, Shot], dict[Path, str]]:
    """What the network is shown of each scene, and why some cannot be read; the encoders of sound and text are let go of afterwards."""
    speech = SpeechEncoder(job.encoders.speech.path, str(device))
    text = TextEncoder(job.encoders.text.path, job.encoders.text.tokenizer, str(device))
    negative = text.encode(job.sampling.negative_prompt).float()
    shots, failed = {}, {}
    for path, scene in scenes.items():
        try:
            beside = _pictures_beside(scene.speech)
            heard = read_audio(scene.speech, beside, 0, math.ceil((scene.seconds or 0) * FRAME_RATE))
            num_frames = math.ceil(len(heard) / SAMPLES_PER_FRAME)
            features = speech.encode(heard, 0, num_frames)
            picture = picture_of(scene.picture, job.sampling)
            stored, rate = stored_sound(scene.speech, beside)
        except (OSError, ClipError) as error:
            failed[path] = str(error)
            continue
        reference = vae.encode(picture[None])[None]
        shown = Conditions(scaled(picture, str(device)), reference, text.encode(scene.prompt).float(), negative, features)
        begin, end = (round(frame / FRAME_RATE * rate) for frame in (lost_frames(job.sampling), num_frames))
        shots[path] = Shot(shown, stored[:, begin:end], rate)
    return shots, failed


def _film(
    settings: Sampling,
    network: nn.Module,
    vae: VideoEncoder,
    shot: Shot,
    path: Path,
    progress: Callable[[int, int], None],
    previews: Previewer | None,
) -> None:
    num_frames = shot.shown.speech.shape[-1]
    clips = num_clips(num_frames, settings)

    def tell(clip: int, step: int, latents: Tensor) -> None:
        progress(clip * settings.steps + step, clips * settings.steps)
        if previews:
            previews.look(path.with_suffix(""), clip, step, latents)

    frames = pictures_of(sampled_clips(network, vae, shot.shown, settings, tell), num_frames - lost_frames(settings))
    write_video(path, frames, FRAME_RATE, shot.sound, shot.sample_rate)


def _pictures_beside(speech: str) -> str:
    """The file whose first picture is the sound's zero: of a video itself, of a file of sound none. Raises OSError, ClipError."""
    return speech if has_pictures(speech) else ""


def _network(
    job: Job, adapter: Path | None, weight: float, largest: Bucket, device: torch.device, note: Callable[[str], object]
) -> nn.Module:
    """The network with its adapter, ready to be asked."""
    tensors, config = load_adapter(adapter) if adapter else ({}, job_lora(job))
    config.lora_alpha *= weight
    config.inference_mode = False  # or PEFT would freeze the adapter, which tells it from the network
    model = network_for_training(job, config, Checkpoint(job.model.path), device, largest, note).eval()
    if adapter:
        fill_adapter(model, tensors)
    return model


def pictures_of(clips: Iterator[Tensor], num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """The first `num_frames` of the clips' frames, [height, width, 3] each."""
    left = num_frames
    for clip in clips:
        shown = ((clip[:left] + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        left -= len(shown)
        yield from shown
