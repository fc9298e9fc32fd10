"""A video file from a picture, a prompt and speech."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ray_s2v.config.job import Job, Sampling
from ray_s2v.encoders.speech import SpeechEncoder
from ray_s2v.encoders.text import TextEncoder
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.media.audio import read_audio
from ray_s2v.media.write import write_video
from ray_s2v.model.lora import fill_adapter, load_adapter
from ray_s2v.schema import FRAME_RATE, SAMPLES_PER_FRAME, Bucket, ClipError, ConfigError
from ray_s2v.training.network import Checkpoint, job_lora, network_for_training
from ray_s2v.validation.sampler import LOST_FRAMES, Conditions, num_clips, sampled_clips


@dataclass(frozen=True)
class Scene:
    """What a video is made from."""

    picture: Path
    speech: Path  # a file with sound; of a video its own
    prompt: str
    seconds: float | None = None  # of the sound; all of it


def check_scene(scene: Scene) -> None:
    """Raises ConfigError listing what of it cannot be read."""
    wrong = []
    try:
        with Image.open(scene.picture) as picture:
            picture.verify()
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        wrong.append(f"picture {scene.picture}: {error}")
    try:
        read_audio(str(scene.speech), str(scene.speech), 0, 1)
    except (OSError, ClipError) as error:
        wrong.append(f"speech {scene.speech}: {error}")
    if not scene.prompt.strip():
        wrong.append("prompt: must not be empty")
    if wrong:
        raise ConfigError("\n".join(wrong))


def make_video(
    job: Job, scene: Scene, adapter: Path | None, weight: float, target: Path, device: torch.device, note: Callable[[str], None]
) -> None:
    """Writes the video, with the sound in step, which appears only when it is whole.

    adapter: a folder of PEFT's; None for the network as it is. weight: of the adapter, 1 as trained. `note` is told what is done. Raises
    ConfigError.
    """
    settings = job.sampling
    sound = read_audio(str(scene.speech), str(scene.speech), 0, math.ceil((scene.seconds or 0) * FRAME_RATE))
    vae = VideoEncoder(job.encoders.vae.path, str(device))
    shown = conditions(job, scene, sound, vae, device)
    network = _network(job, adapter, weight, device, note)
    clips = num_clips(shown.speech.shape[-1], settings)

    def tell(clip: int, step: int, _: Tensor) -> None:
        note(f"clip {clip + 1} of {clips}: step {step} of {settings.steps}")

    frames = _pictures(sampled_clips(network, vae, shown, clips, settings, tell), math.ceil(len(sound) / SAMPLES_PER_FRAME) - LOST_FRAMES)
    write_video(target, frames, FRAME_RATE, sound[LOST_FRAMES * SAMPLES_PER_FRAME :])


def conditions(job: Job, scene: Scene, sound: NDArray[np.float32], vae: VideoEncoder, device: torch.device) -> Conditions:
    """What the network is shown; the encoders are let go of one after the other."""
    num_frames = math.ceil(len(sound) / SAMPLES_PER_FRAME)
    speech = SpeechEncoder(job.encoders.speech.path, str(device)).encode(sound, 0, num_frames)
    encoder = TextEncoder(job.encoders.text.path, job.encoders.text.tokenizer, str(device))
    text, negative = (encoder.encode(words).float() for words in (scene.prompt, job.sampling.negative_prompt))
    return Conditions(vae.encode(picture_of(scene.picture, job.sampling))[None], text, negative, speech)


def picture_of(path: Path, settings: Sampling) -> NDArray[np.uint8]:
    """The picture, upright, scaled to cover the video's size and cut at its centre: [1, height, width, 3]."""
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    return np.asarray(ImageOps.fit(upright, settings.sides, Image.Resampling.BICUBIC))[None]


def _network(job: Job, adapter: Path | None, weight: float, device: torch.device, note: Callable[[str], None]) -> torch.nn.Module:
    """The network with its adapter, ready to be asked."""
    settings = job.sampling
    tensors, config = load_adapter(adapter) if adapter else ({}, job_lora(job))
    config.lora_alpha *= weight  # type: ignore[assignment]  # PEFT types it as an integer, and only ever divides it by the rank
    config.inference_mode = False  # or PEFT would freeze the adapter, which tells it from the network
    largest = Bucket(*settings.sides, settings.num_frames)
    model = network_for_training(job, config, Checkpoint(job.model.path), device, largest, note).eval()
    if adapter:
        fill_adapter(model, tensors)
    return model


def _pictures(clips: Iterator[Tensor], num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """The first `num_frames` of the clips' frames, [height, width, 3] each."""
    left = num_frames
    for clip in clips:
        shown = ((clip[:left] + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        left -= len(shown)
        yield from shown
