"""Frozen weights in eight bits: int8 in groups of a row, or float8 with a scale for each row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GROUP = 128  # int8 weights share a scale
SMALLEST = 1e-30  # of a row's extent: its inverse is still a float32, and gradients of 1e-20 are no zeros
FLOAT8 = torch.float8_e4m3fnuz if torch.version.hip else torch.float8_e4m3fn  # MI300X has the former


def int8_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] -> int8 [out, in] and float32 scales [out, in / group], the group being the largest part of 128 that divides the row."""
    groups = weight.float().unflatten(1, (-1, math.gcd(GROUP, weight.shape[1])))
    scales = groups.abs().amax(-1).clamp(min=SMALLEST) / 127
    return (groups / scales[..., None]).round().to(torch.int8).flatten(1), scales


def dequantized(weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] that `int8_weight` was given, to half a step of each group."""
    return (weight.unflatten(1, (scales.shape[1], -1)).to(torch.float32) * scales[..., None]).flatten(1).to(dtype)


def quantized_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, in] -> float8 [rows, in] and float32 scales [rows, 1], each row filling float8's range."""
    x = x.float()
    largest = torch.finfo(FLOAT8).max
    extent = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    return (x * (largest / extent)).clamp(-largest, largest).to(FLOAT8), extent / largest


def float8_product(x: Tensor, x_scales: Tensor, weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """x [tokens, in] times the transpose of weight [out, in], both float8 with a scale a row: [tokens, out].

    On a CPU the same numbers by float32 products, to see what the rounding does where no float8 products are.
    """
    if x.device.type == "cpu":
        return ((x.float() * x_scales) @ (weight.float() * scales).t()).to(dtype)
    return torch._scaled_mm(x, weight.t(), x_scales, scales.t(), out_dtype=dtype, use_fast_accum=True)
