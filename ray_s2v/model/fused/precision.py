"""Frozen weights of the blocks' and injectors' linear layers in eight bits instead of sixteen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from ray_s2v.model.fused.quantize import int8_weight, quantized_rows

BasePrecision = Literal["bf16", "fp32", "fp8", "int8"]


def narrow_layers(network: Any) -> Iterator[nn.Linear]:
    """The frozen linear layers that `narrow` is for: all large ones but those of the adaptive norms, whose inputs are a few rows."""
    for module in (*network.blocks, *network.audio_injector.injector):
        yield from (layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and "lora_" not in name)


def narrow(layer: nn.Linear, precision: BasePrecision, device: torch.device, home: torch.device) -> None:
    """Puts the layer's weight into another form, in place; only the fast form can compute with it then.

    device: where the rounding is computed. home: where the weight is kept.
    """
    if precision in ("bf16", "fp32"):
        return
    weight, scales = (quantized_rows if precision == "fp8" else int8_weight)(layer.weight.detach().to(device))
    layer.weight = nn.Parameter(weight.to(home), requires_grad=False)
    layer.register_buffer("scales", scales.to(home), persistent=False)
