"""A video of any length from a picture, a prompt and speech, clip by clip, as the official sampler makes it. wan_s2v sections 8 and 11."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_s2v.config.sampling import Sampling
from ray_s2v.encoders.vae import VideoEncoder
from ray_s2v.model.flow import VelocityModel
from ray_s2v.schema import FRAMES_PER_LATENT, HISTORY_FRAMES, LATENT_CHANNELS
from ray_s2v.validation.schedulers import scheduler_of

PICTURE_FRAMES = 6  # of the history before a first clip that goes on from the picture


@dataclass(frozen=True)
class Conditions:
    """What a video is to show; all on the device of the network."""

    picture: Tensor  # [height, width, 3] in [-1, 1]
    reference: Tensor  # [1, 16, 1, height / 8, width / 8], the picture's latents
    text: Tensor  # [length, text_dim]
    negative: Tensor  # likewise, of what it is not to show
    speech: Tensor  # [25, audio_dim, frames], of the whole sound at 16 frames a second


def num_clips(num_frames: int, settings: Sampling) -> int:
    """How many clips show so many frames of sound."""
    return -(-num_frames // settings.num_frames)


def lost_frames(settings: Sampling) -> int:
    """How many frames of the sound at its beginning the video has no pictures for: frame i of it shows frame i + lost of the sound.

    The first latent of four frames has no true one before it, so the first three of these are thrown away.
    """
    return 0 if settings.init_first_frame else FRAMES_PER_LATENT - 1


def sampled_clips(
    network: VelocityModel, vae: VideoEncoder, shown: Conditions, settings: Sampling, tell: Callable[[int, int, Tensor], object]
) -> Iterator[Tensor]:
    """The frames of each clip in turn, [frames, height, width, 3] in [-1, 1]: of the first one `lost_frames` fewer than of the others.

    The last clip may go on after the sound has ended. `tell` gets clip, steps done and the latents so far.
    """
    clips = num_clips(shown.speech.shape[-1], settings)
    speech = _padded(shown.speech, clips * settings.num_frames)
    history = shown.picture.new_zeros(HISTORY_FRAMES, *shown.picture.shape)
    if settings.init_first_frame:
        history[-PICTURE_FRAMES:] = shown.picture
    for clip in range(clips):
        motion = vae.encode_scaled(history) if clip or settings.init_first_frame else None
        heard = speech[..., clip * settings.num_frames : (clip + 1) * settings.num_frames]
        latents = sampled_latents(network, shown, motion, heard, settings, clip, tell)
        frames = decoded(vae, latents, shown.reference[0], motion)
        history = torch.cat([history, frames])[-HISTORY_FRAMES:]
        yield frames


@torch.no_grad()
def sampled_latents(
    network: VelocityModel,
    shown: Conditions,
    motion: Tensor | None,
    heard: Tensor,
    settings: Sampling,
    clip: int,
    tell: Callable[[int, int, Tensor], object],
) -> Tensor:
    """Latents [16, num_frames / 4, h, w] of one clip. motion: [16, 19, h, w] of the frames before it; None for the first clip.

    Noise is drawn on the CPU from the seed and the clip's number, so that it is the same on every device.
    """
    device = shown.reference.device
    shape = (1, LATENT_CHANNELS, settings.num_frames // FRAMES_PER_LATENT, *shown.reference.shape[-2:])
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(settings.seed + clip)).to(device)
    scheduler = scheduler_of(settings.solver, settings.steps, settings.shift)
    past = None if motion is None else motion[None]
    audio = heard[None]
    for number, timestep in enumerate(scheduler.timesteps):
        at = timestep.float().to(device)[None]
        velocity = network(latents, at, [shown.text], shown.reference, motion=past, audio=audio)
        if settings.guidance != 1:  # away from the negative prompt and from silence, together
            without = network(latents, at, [shown.negative], shown.reference, motion=past, audio=torch.zeros_like(audio))
            velocity = without + settings.guidance * (velocity - without)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        tell(clip, number + 1, latents[0])
    return latents[0]


def decoded(vae: VideoEncoder, latents: Tensor, reference: Tensor, motion: Tensor | None) -> Tensor:
    """The frames of a clip's latents, [frames, height, width, 3] in [-1, 1]: all of a continuation, of a first clip three fewer.

    The decoder is causal: the reference picture stands before a first clip, the motion latents before a continuation.
    """
    before = reference if motion is None else motion
    lost = FRAMES_PER_LATENT - 1 if motion is None else 0
    frames = vae.decode(torch.cat([before, latents], dim=1))
    return frames[FRAMES_PER_LATENT * before.shape[1] - 3 + lost :].clamp(-1, 1)


def _padded(speech: Tensor, num_frames: int) -> Tensor:
    """The features with zeros after the end of the sound, as there are for frames without sound."""
    assert speech.shape[-1] <= num_frames
    return torch.nn.functional.pad(speech, (0, num_frames - speech.shape[-1]))
