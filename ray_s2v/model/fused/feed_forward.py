"""The feed-forward of a block with its norm, modulation and gate (wan_s2v 4.3), and its pullback."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ray_s2v.model.fused.linear import Linear, project, project_pullback
from ray_s2v.model.fused.norms import layer_norm, layer_norm_pullback

# The tanh form's 2 sqrt(2 / pi), and 0.044715 times it: 0.5 (1 + tanh(z)) is the logistic function of 2 z.
GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR


class FeedForward(NamedTuple):
    """Its weights, its modulation [batch, tokens, dim] each, and what is no tensor."""

    up: Linear
    down: Linear
    scale: Tensor  # with its 1 added
    shift: Tensor
    gate: Tensor
    dtype: torch.dtype  # of the products
    eps: float
    chunks: int  # pieces of the tokens, one after the other


def _gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form, float32, written with the logistic function: with float8 rounding 1.2 ms, with tanh 1.8 (H100)."""
    x = x.float()
    return x * torch.sigmoid(x * (GELU_LINEAR + GELU_CUBIC * x.square()))


def _gelu_pullback(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of x, float32."""
    x = x.float()
    share = torch.sigmoid(x * (GELU_LINEAR + GELU_CUBIC * x.square()))
    return grad.float() * (share + x * share * (1 - share) * (GELU_LINEAR + 3 * GELU_CUBIC * x.square()))


def _input(hidden: Tensor, scale: Tensor, shift: Tensor, of: FeedForward) -> Tensor:
    return layer_norm(hidden, scale, shift, of.eps).to(of.dtype).flatten(0, 1)


def feed_forward(hidden: Tensor, of: FeedForward) -> tuple[Tensor, Tensor]:
    """Hidden states after it, and what enters its GELU [tokens, inner]; the latter empty where there are several chunks."""
    parts, befores = [], []
    for part, scale, shift, gate in _chunks(of.chunks, hidden, of.scale, of.shift, of.gate):
        (before,) = project(_input(part, scale, shift, of), (of.up,))
        (out,) = project(_gelu(before).to(of.dtype), (of.down,))
        parts.append(part + out.view_as(part) * gate)
        befores.append(before)
    return _joined(parts), befores[0] if len(befores) == 1 else before.new_empty(0)


def feed_forward_pullback(grad: Tensor, hidden: Tensor, before: Tensor | None, of: FeedForward) -> tuple[Tensor, list[Tensor]]:
    """Gradients of `hidden` and of the LoRA factors. before: what enters the GELU; computed again where None."""
    assert before is None or of.chunks == 1
    parts, of_lora = [], []
    for g, part, scale, shift, gate in _chunks(of.chunks, grad, hidden, of.scale, of.shift, of.gate):
        x = _input(part, scale, shift, of)
        entering = project(x, (of.up,))[0] if before is None else before
        of_active, of_down = project_pullback([(g * gate).to(of.dtype).flatten(0, 1)], _gelu(entering).to(of.dtype), (of.down,))
        of_x, of_up = project_pullback([_gelu_pullback(of_active, entering).to(of.dtype)], x, (of.up,))
        parts.append(g + layer_norm_pullback(of_x.view_as(part), part, scale, of.eps))
        of_lora.append([*of_up, *of_down])
    summed = [torch.stack(tensors).sum(0) if len(tensors) > 1 else tensors[0] for tensors in zip(*of_lora, strict=True)]
    return _joined(parts), summed


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _chunks(count: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The tensors in so many pieces of tokens, which are dimension 1."""
    return list(zip(*(tensor.chunk(count, dim=1) for tensor in tensors), strict=True))
