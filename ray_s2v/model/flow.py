"""Rectified flow: noise levels, noised latents, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ray_s2v.model.tread import Route, drawn
from ray_s2v.schema import Batch

NUM_TIMESTEPS = 1000


class VelocityModel(Protocol):
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...


def shifted(level: Tensor, shift: float) -> Tensor:
    """Noise levels moved towards noise: shift * u / (1 + (shift - 1) * u). Shift 3 is the sampler's (wan_s2v 12)."""
    return shift * level / (1 + (shift - 1) * level)


def noised(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Latents with a share `sigma` of noise: (1 - sigma) * latents + sigma * noise.

    latents, noise: [batch, 16, latent_frames, h, w]. sigma: [batch], 0 clean, 1 pure noise. arXiv:2209.03003.
    """
    sigma = sigma.view(-1, 1, 1, 1, 1)
    return (1 - sigma) * latents + sigma * noise


def clip_losses(model: VelocityModel, batch: Batch, shift: float, routes: Sequence[Route] = ()) -> Tensor:
    """Mean squared error of the predicted velocity (noise - latents) of each clip, [batch] float32; zero for unreadable clips.

    Reference and motion are clean and carry no loss. The timestep stays in float32 and is not rounded. routes: of TREAD.
    """
    sigma = shifted(batch.noise_level.float(), shift)
    frames, height, width = batch.latents.shape[2:]
    prediction = model(
        noised(batch.latents, batch.noise, sigma),
        NUM_TIMESTEPS * sigma,
        batch.text,
        batch.reference,
        motion=batch.motion,
        pose=batch.pose,
        audio=batch.audio,
        routes=drawn(routes, frames, height // 2 * (width // 2), batch.seed, batch.latents.device),
    )
    off = prediction.float() - (batch.noise - batch.latents)
    # A clip that could not be read is black and silent; its error may be anything, its share in the step is nothing. Masked before
    # it is squared: afterwards the gradient would be 0 times the error, which is NaN where the prediction is not finite.
    counts = torch.tensor([not error for error in batch.errors], device=off.device).view(-1, 1, 1, 1, 1)
    return torch.where(counts, off, 0.0).square().mean(dim=(1, 2, 3, 4))
