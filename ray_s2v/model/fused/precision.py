"""Frozen weights of the blocks' and injectors' linear layers in eight bits instead of sixteen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from ray_s2v.model.fused.quantize import float8_weight, int8_weight

BasePrecision = Literal["bf16", "fp8", "int8"]


def narrow_layers(network: Any) -> Iterator[nn.Linear]:
    """The linear layers that `narrow` is for: all large ones but those of the adaptive norms, whose inputs are a few rows."""
    for module in (*network.blocks, *network.audio_injector.injector):
        yield from (layer for layer in module.modules() if isinstance(layer, nn.Linear))


def narrow(layer: nn.Linear, precision: BasePrecision) -> None:
    """Puts the layer's weight into another form, in place; only the fast form can compute with it then."""
    if precision == "bf16":
        return
    weight, scales = (float8_weight if precision == "fp8" else int8_weight)(layer.weight.detach())
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.register_buffer("scales", scales, persistent=False)
