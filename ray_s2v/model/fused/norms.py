"""Norms, modulation and rotary positions, each with its pullback: the gradient of its input from the gradient of its output.

All arithmetic is float32 whatever comes in. Shapes: [batch, tokens, dim] unless said otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def by_segment(values: Tensor, noisy: Tensor) -> Tensor:
    """Column 0 of [batch, 2, dim] for noisy tokens, column 1 for the others: [batch, tokens, dim], which a compiler never writes out.

    noisy: [tokens] bool.
    """
    return torch.where(noisy[None, :, None], values[:, :1], values[:, 1:])


def normalized(hidden: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(hidden - mean) / deviation, and 1 / deviation [batch, tokens, 1]; float32."""
    hidden = hidden.float()
    variance, mean = torch.var_mean(hidden, -1, correction=0, keepdim=True)  # in one pass over the row where it is compiled
    inverse = torch.rsqrt(variance + eps)
    return (hidden - mean) * inverse, inverse


def layer_norm(hidden: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """The layer norm of hidden times `scale` plus `shift`, in float32."""
    return normalized(hidden, eps)[0] * scale + shift


def layer_norm_pullback(grad: Tensor, hidden: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Gradient of `hidden`, float32."""
    normed, inverse = normalized(hidden, eps)
    scaled = grad.float() * scale
    along = (scaled * normed).mean(-1, keepdim=True)
    return inverse * (scaled - scaled.mean(-1, keepdim=True) - normed * along)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """hidden / its root mean square over the last dimension, times weight; float32."""
    hidden = hidden.float()
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps) * weight.float()


def rms_norm_pullback(grad: Tensor, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Gradient of `hidden`, float32."""
    hidden = hidden.float()
    inverse = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps)
    scaled = grad.float() * weight.float()
    along = (scaled * hidden).mean(-1, keepdim=True) * inverse.square()
    return inverse * (scaled - hidden * along)


def rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Neighbouring channels turned by their token's angles. Its pullback is the turn by the negative angles, `-sines`.

    heads: [batch, tokens, heads, head_dim]. cosines, sines: [tokens, head_dim / 2] float32.
    """
    heads = heads.float()
    # Each channel times its cosine, plus its neighbour times its sine, subtracted for the first of the two. Put together from two
    # halves instead, the compiled pullback of norm and turn takes a third longer.
    neighbours = heads.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    signs = 2.0 * (torch.arange(heads.shape[-1], device=heads.device) % 2) - 1.0
    return heads * cosines.repeat_interleave(2, -1)[None, :, None] + neighbours * (signs * sines.repeat_interleave(2, -1))[None, :, None]
