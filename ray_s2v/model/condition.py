"""Feature rows to the batch that the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_s2v.schema import HISTORY_LATENTS, Batch


def collated(rows: Sequence[dict[str, Any]], device: torch.device) -> Batch:
    """A batch on `device` of rows of one step, bucket and kind, as the encoders leave them.

    Each row holds a plan row's keys and `latents` [16, (19 +) latent_frames, h, w] (motion first in a continuation),
    `reference` [16, 1, h, w], maybe `pose_latents` [16, latent_frames, h, w], `speech` [frames, 25, audio_dim], `text`
    [length, text_dim] as the bits of bfloat16, and `video_error` and `speech_error`. Noise is drawn on the CPU from the row's seed,
    so that it is the same on every device.
    """
    assert len({(row["step"], row["kind"], np.shape(row["latents"])) for row in rows}) == 1
    latents = _stacked(rows, "latents")
    num_motion = HISTORY_LATENTS if rows[0]["kind"] == "continuation" else 0
    motion, clean = latents[:, :, :num_motion], latents[:, :, num_motion:]
    heard = torch.tensor([not row["drop_audio"] for row in rows]).view(-1, 1, 1, 1)
    generators = (torch.Generator().manual_seed(int(row["noise_seed"])) for row in rows)
    noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators])
    return Batch(
        step=int(rows[0]["step"]),
        slots=[int(row["slot"]) for row in rows],
        clip_ids=[str(row["clip_id"]) for row in rows],
        errors=[row["video_error"] or row["speech_error"] for row in rows],
        latents=clean.to(device),
        reference=_stacked(rows, "reference").to(device),
        motion=motion.to(device) if num_motion else None,
        pose=_poses(rows, clean).to(device) if any("pose_latents" in row for row in rows) else None,
        audio=(_stacked(rows, "speech").permute(0, 2, 3, 1) * heard).contiguous().to(device),
        text=[torch.from_numpy(np.array(row["text"])).view(torch.bfloat16).float().to(device) for row in rows],
        noise=noise.to(device),
        noise_level=torch.tensor([float(row["noise_level"]) for row in rows], dtype=torch.float32, device=device),
        seed=int(rows[0]["noise_seed"]),
    )


def _tensor(array: Any) -> Tensor:
    """A tensor of its own memory: the object store's arrays are read-only."""
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _poses(rows: Sequence[dict[str, Any]], latents: Tensor) -> Tensor:
    """Pose latents, zeros for clips without: what the sampler gives the network there. wan_s2v section 10."""
    none = torch.zeros_like(latents[0])
    return torch.stack([_tensor(row["pose_latents"]) if "pose_latents" in row else none for row in rows])


def _stacked(rows: Sequence[dict[str, Any]], column: str) -> Tensor:
    return torch.stack([_tensor(row[column]) for row in rows])
