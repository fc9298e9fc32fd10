"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def learning_rate(step: int, num_steps: int, peak: float, warmup_steps: int) -> float:
    """Linear from `peak / warmup_steps` at step 0 up to `peak`, then half a cosine that reaches 0 one step after the last."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
