"""Rotary positions of the three kinds of tokens: noisy video, reference picture, packed motion history (wan_s2v 5)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_s2v.schema import FRAMES_PER_LATENT, LATENT_STRIDE, Bucket

REFERENCE_TIME = 30
MOTION_TIMES = ((-1,), (-3,), (-19, -14, -9, -4))  # of the 1x, 2x and 4x packed segments
MOTION_STRIDES = (1, 2, 4)
THETA = 10000.0


def _grid(times: tuple[int, ...], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions [tokens, 3] of a box of tokens, order time, row, column."""
    return np.stack(np.meshgrid(np.array(times), rows, columns, indexing="ij"), axis=-1).reshape(-1, 3)


def _strided(count: int, stride: int) -> NDArray[np.int64]:
    """`count // stride` positions spread over 0..count-1. numpy's linspace, truncated: torch's differs at some sizes."""
    return np.linspace(0, count - 1, count // stride).astype(np.int64)


def segment_positions(latent_frames: int, latent_height: int, latent_width: int) -> list[NDArray[np.int64]]:
    """Signed positions [tokens, 3] on the time, height and width axes of noisy, reference, motion 1x, 2x and 4x tokens."""
    assert latent_frames <= REFERENCE_TIME, f"{latent_frames} latent frames reach the reference picture's position {REFERENCE_TIME}"
    height, width = latent_height // 2, latent_width // 2
    video = _grid(tuple(range(latent_frames)), np.arange(height), np.arange(width))
    reference = _grid((REFERENCE_TIME,), np.arange(height), np.arange(width))
    motion = [_grid(t, _strided(height, s), _strided(width, s)) for t, s in zip(MOTION_TIMES, MOTION_STRIDES, strict=True)]
    return [video, reference, *motion]


def num_tokens(latent_frames: int, latent_height: int, latent_width: int, has_motion: bool) -> int:
    """Tokens that the blocks see of a clip."""
    segments = segment_positions(latent_frames, latent_height, latent_width)
    return sum(len(segment) for segment in (segments if has_motion else segments[:2]))


def bucket_tokens(bucket: Bucket, has_motion: bool) -> int:
    """Tokens of a clip of a bucket."""
    return num_tokens(bucket.num_frames // FRAMES_PER_LATENT, bucket.height // LATENT_STRIDE, bucket.width // LATENT_STRIDE, has_motion)


def rotary_angles(positions: NDArray[np.int64], head_dim: int) -> Tensor:
    """Angles [tokens, head_dim / 2] in float64; pair j of a head is its channels 2j and 2j + 1.

    A head's pairs are split into time, height and width: c - 2(c // 3), c // 3, c // 3 of c = head_dim / 2.
    """
    pairs = head_dim // 2
    angles = []
    for axis, count in enumerate((pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)):
        frequencies = THETA ** (-torch.arange(count, dtype=torch.float64) / count)
        angles.append(torch.from_numpy(positions[:, axis]).double()[:, None] * frequencies)
    return torch.cat(angles, dim=1)


@lru_cache(maxsize=16)
def rotary_table(
    latent_frames: int, latent_height: int, latent_width: int, has_motion: bool, head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [tokens, head_dim / 2] in float32, one table for all samples and heads. Built in float64, as the official one."""
    segments = segment_positions(latent_frames, latent_height, latent_width)
    angles = rotary_angles(np.concatenate(segments if has_motion else segments[:2]), head_dim)
    return tuple(f(angles).float().to(device) for f in (torch.cos, torch.sin))  # type: ignore[return-value]
