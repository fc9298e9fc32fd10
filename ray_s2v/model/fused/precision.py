"""Frozen weights of the blocks' and injectors' linear layers in eight bits instead of sixteen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ray_s2v.model.fused.quantize import int8_weight, quantized_rows

BasePrecision = Literal["bf16", "fp32", "fp8", "int8"]


def narrow_layers(network: Any) -> Iterator[nn.Linear]:
    """The frozen linear layers that `narrow` is for: all large ones but those of the adaptive norms, whose inputs are a few rows."""
    for module in (*network.blocks, *network.audio_injector.injector):
        yield from (layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and "lora_" not in name)


def narrow(layer: nn.Linear, precision: BasePrecision, device: torch.device, home: torch.device) -> None:
    """Puts the layer's weight into another form, in place; only the fast form can compute with it then.

    device: where the rounding is computed; meta for placeholders. home: where the weight is kept.
    """
    if precision in ("bf16", "fp32"):
        return
    weight, scales = (quantized_rows if precision == "fp8" else int8_weight)(layer.weight.detach().to(device))
    weight, scales = (placeholder(t) if device.type == "meta" else t.to(home) for t in (weight, scales))
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.register_buffer("scales", scales, persistent=False)


def placeholder(like: Tensor) -> Tensor:
    """A tensor on the CPU of the same shape and dtype with no memory behind it, for one whose values are never read."""
    return torch.zeros((), dtype=like.dtype).expand(like.shape)
