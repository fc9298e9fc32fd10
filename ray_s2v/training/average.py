"""The moving average of what is trained: its steps scatter less than the weights do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ray_s2v.config.job import Ema


class Average:
    """An exponential moving average in float32, beside the tensors that it is of. It begins as what they are at the start."""

    def __init__(self, settings: Ema, start: Mapping[str, Tensor]) -> None:
        self.settings = settings
        self.tensors = {name: tensor.detach().float().clone() for name, tensor in start.items()}

    def to(self, device: torch.device) -> None:
        """Moves it there."""
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}

    def is_due(self, steps_done: int) -> bool:
        return steps_done % self.settings.every == 0

    def take(self, now: Mapping[str, Tensor], steps_done: int) -> None:
        """Moves it towards what they are now: in `every` steps as far as `decay` says of so many.

        At first faster, or a short run's average would be its beginning: a step n keeps at most (1 + n) / (10 + n).
        """
        kept = min(self.settings.decay, (1 + steps_done) / (10 + steps_done)) ** self.settings.every
        with torch.no_grad():
            get_ema_multi_avg_fn(kept)(list(self.tensors.values()), [now[name].detach().float() for name in self.tensors], None)
