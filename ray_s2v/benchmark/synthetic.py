"""Batches of a job's own shape, without clips."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ray_s2v.config.job import Job
from ray_s2v.schema import (
    FRAMES_PER_LATENT,
    HISTORY_LATENTS,
    LATENT_CHANNELS,
    LATENT_STRIDE,
    MIN_SIDE,
    SIZE_MULTIPLE,
    Batch,
    Bucket,
)

TEXT_TOKENS = 120  # a long caption; the network pads it to 512


def bucket_of(job: Job) -> Bucket:
    """The largest bucket of the first source that is trained on; the square one where a source has many."""
    source = next(source for source in job.data.sources if not source.is_eval)
    interval = source.frame_interval or FRAMES_PER_LATENT
    num_frames = source.num_frames // interval * interval
    if source.resolution_type == "exact":
        return Bucket(*source.exact_size(), num_frames)
    edge = math.sqrt(float(source.resolution) * 1e6) if source.resolution_type == "area" else float(source.resolution)
    side = max(round(edge / SIZE_MULTIPLE) * SIZE_MULTIPLE, MIN_SIDE)
    return Bucket(side, side, num_frames)


def synthetic_batch(config: Any, bucket: Bucket, clips: int, has_motion: bool, seed: int, device: torch.device) -> Batch:
    """`clips` clips of noise; drawn on the CPU, so that it is the same on every device.

    config: of a WanS2VTransformer3DModel. has_motion: a continuation, not a first clip.
    """
    frames, cells = bucket.num_frames // FRAMES_PER_LATENT, (bucket.height // LATENT_STRIDE, bucket.width // LATENT_STRIDE)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    return Batch(
        step=0,
        slots=list(range(clips)),
        clip_ids=[f"random {clip}" for clip in range(clips)],
        errors=["" for _ in range(clips)],
        latents=draw(clips, LATENT_CHANNELS, frames, *cells),
        reference=draw(clips, LATENT_CHANNELS, 1, *cells),
        motion=draw(clips, LATENT_CHANNELS, HISTORY_LATENTS, *cells) if has_motion else None,
        pose=None,
        audio=draw(clips, config.num_weighted_avg_layers, config.audio_dim, FRAMES_PER_LATENT * frames),
        text=[draw(TEXT_TOKENS, config.text_dim) for _ in range(clips)],
        noise=draw(clips, LATENT_CHANNELS, frames, *cells),
        noise_level=torch.full((clips,), 0.5, device=device),
        seed=seed,
    )
