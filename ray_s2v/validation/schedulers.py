"""The steps from noise to a video: diffusers' solvers on the official noise levels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from ray_s2v.model.flow import NUM_TIMESTEPS, shifted

LARGEST_LEVEL = 1 - 1 / NUM_TIMESTEPS  # before the shift


def scheduler_of(
    solver: Literal["unipc", "euler"], num_steps: int, shift: float
) -> UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler:
    """A scheduler that is set to so many steps, for one clip: solvers of several steps remember the last ones."""
    return unipc(num_steps, shift) if solver == "unipc" else euler(num_steps, shift)


def unipc(num_steps: int, shift: float) -> UniPCMultistepScheduler:
    """UniPC as the official sampler has it: order 2, B(h) = exp(h) - 1, lower order in the end. arXiv:2302.04867, wan_s2v section 11.

    diffusers' own levels for it are others, by up to 3 timesteps; the official ones are levels down to 0 before the shift, and timesteps
    are cut to integers.
    """
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(num_steps)
    levels = torch.from_numpy(np.linspace(LARGEST_LEVEL, 0, num_steps + 1))
    sigmas = shifted(levels, shift)
    scheduler.sigmas = sigmas.float()
    scheduler.timesteps = (NUM_TIMESTEPS * sigmas[:-1]).long()
    return scheduler


def euler(num_steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    """Euler's method at levels by the quantiles of a beta distribution, which are dense at both ends. arXiv:2407.12173."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, use_beta_sigmas=True)
    scheduler.set_timesteps(num_steps)
    return scheduler
