"""Weights that need no checkpoint."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ray_s2v.model.checkpoint import checkpoint_folder, empty_model
from ray_s2v.model.transformer import WanS2VTransformer3DModel

SPREAD = 0.02
_NUMBERED = re.compile(r"^(blocks|audio_injector\.\w+)\.\d+\.")


@dataclass(frozen=True)
class RandomWeights:
    """Random weights of the configuration in a folder, or of the 14B's where `path` is no folder; the values are the name's alone.

    All blocks have the same values, and so have all injectors: a network is then the same wherever it lies, and losses can be compared.
    What lies on the CPU beside a GPU lies there once, as separate parameters of one storage: time and memory of the step do not depend
    on it, and it saves the host 30 GB and minutes.
    """

    path: str
    device: torch.device  # where numbers are drawn
    shared_on_host: bool  # blocks on the CPU share their storage

    @property
    def is_here(self) -> bool:
        """Whether the configuration is that of a folder."""
        return Path(self.path).expanduser().is_dir()

    def outline(self) -> WanS2VTransformer3DModel:
        if self.is_here:
            return empty_model(WanS2VTransformer3DModel, checkpoint_folder(self.path))
        with torch.device("meta"):
            return WanS2VTransformer3DModel()

    def read(self, dtype: torch.dtype, device_of: Callable[[str], torch.device]) -> WanS2VTransformer3DModel:
        network = self.outline()
        exact = set(network._keep_in_fp32_modules)
        on_host: dict[str, Tensor] = {}
        state = {}
        for name, like in network.state_dict().items():
            role, device = _NUMBERED.sub(r"\1.", name), device_of(name)
            tensor = on_host.get(role) if device.type == "cpu" else None
            if tensor is None:
                tensor = self._drawn(role, like.shape).to(device, torch.float32 if exact & set(name.split(".")) else dtype)
            if self.shared_on_host and device.type == "cpu":
                on_host[role] = tensor
            state[name] = tensor
        network.load_state_dict(state, strict=True, assign=True)
        return network.eval()

    def _drawn(self, role: str, shape: torch.Size) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(role.encode()))
        return torch.randn(shape, generator=generator, device=self.device).mul_(SPREAD)
