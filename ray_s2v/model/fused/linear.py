"""Frozen linear layers with LoRA, forward and backward, in the forms that their weights are kept in.

A weight is in the dtype of the products, or int8, or float8; the last two with scales. LoRA's factors are float32 and enter the
products in the products' dtype; their gradients are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ray_s2v.model.fused.quantize import FLOAT8, dequantized, float8_product, quantized_rows


class Lora(NamedTuple):
    """down [rank, in], up [out, rank]; what they add is `scale` times their product."""

    down: Tensor
    up: Tensor
    scale: float


class Linear(NamedTuple):
    """weight [out, in]; scales of an int8 weight [out, groups], of a float8 one [out, 1]."""

    weight: Tensor
    bias: Tensor
    scales: Tensor | None = None
    lora: Lora | None = None


def _product(x: Tensor, linear: Linear) -> Tensor:
    """x [tokens, in] times the weight: [tokens, out], with the bias."""
    if linear.scales is None:
        return torch.addmm(linear.bias, x, linear.weight.t())
    if linear.weight.dtype == torch.int8:
        return torch.addmm(linear.bias, x, dequantized(linear.weight, linear.scales, x.dtype).t())
    assert linear.weight.dtype == FLOAT8
    return float8_product(*quantized_rows(x), linear.weight, linear.scales, x.dtype) + linear.bias


def _transposed_product(grad: Tensor, linear: Linear) -> Tensor:
    """grad [tokens, out] times the transposed weight: [tokens, in]."""
    if linear.scales is None:
        return grad @ linear.weight
    if linear.weight.dtype == torch.int8:
        return grad @ dequantized(linear.weight, linear.scales, grad.dtype)
    # A row's scale belongs to a summand here, so it goes to the gradient; float8 products want the summed dimension innermost.
    ones = torch.ones(linear.weight.shape[1], 1, device=grad.device)
    scaled = grad.float() * linear.scales.t()
    return float8_product(*quantized_rows(scaled), linear.weight.t().contiguous(), ones, grad.dtype)


def _downs(linears: Sequence[Linear], dtype: torch.dtype) -> Tensor:
    return torch.cat([linear.lora.down.to(dtype) for linear in linears if linear.lora])


def _ups(linears: Sequence[Linear], dtype: torch.dtype) -> list[Tensor]:
    return [(linear.lora.scale * linear.lora.up).to(dtype) for linear in linears if linear.lora]


def project(x: Tensor, linears: Sequence[Linear]) -> list[Tensor]:
    """The outputs of linear layers that share the input x [tokens, in]: [tokens, out] each."""
    outputs = [_product(x, linear) for linear in linears]
    adapted = [index for index, linear in enumerate(linears) if linear.lora]
    if adapted:
        ups = _ups(linears, x.dtype)
        low = (x @ _downs(linears, x.dtype).t()).split([up.shape[1] for up in ups], dim=1)
        for index, part, up in zip(adapted, low, ups, strict=True):
            outputs[index] = outputs[index] + part @ up.t()
    return outputs


def _grads_low(grads: Sequence[Tensor], linears: Sequence[Linear], dtype: torch.dtype) -> Tensor:
    """Gradient of the inputs of all `up` factors, side by side: [tokens, sum of ranks]."""
    of_adapted = [grad for grad, linear in zip(grads, linears, strict=True) if linear.lora]
    return torch.cat([grad @ up for grad, up in zip(of_adapted, _ups(linears, dtype), strict=True)], dim=1)


def _summed(left: Tensor, right: Tensor) -> Tensor:
    """left.T @ right in float32: sums over all tokens, which would lose to a rounding at their end."""
    if left.dtype == torch.float32:
        return left.t() @ right
    if left.is_cuda and not torch.version.hip:
        return torch.mm(left.t(), right, out_dtype=torch.float32)
    return (left.t() @ right).float()


def lora_gradients(grads: Sequence[Tensor], x: Tensor, linears: Sequence[Linear]) -> list[Tensor]:
    """Gradients of each LoRA's `down` and `up` in float32, in the order of `linears`, whose outputs' gradients are given.

    grads: [tokens, out] each. x: their common input.
    """
    adapted = [(linear.lora, grad) for linear, grad in zip(linears, grads, strict=True) if linear.lora]
    if not adapted:
        return []
    ranks = [lora.down.shape[0] for lora, _ in adapted]
    low = (x @ _downs(linears, x.dtype).t()).split(ranks, dim=1)
    of_downs = _summed(_grads_low(grads, linears, x.dtype), x).split(ranks)
    found: list[Tensor] = []
    for (lora, grad), part, of_down in zip(adapted, low, of_downs, strict=True):
        found += [of_down, lora.scale * _summed(grad, part)]
    return found


def project_pullback(grads: Sequence[Tensor], x: Tensor, linears: Sequence[Linear]) -> tuple[Tensor, list[Tensor]]:
    """Gradient of x in float32, and `lora_gradients`."""
    products = [_transposed_product(grad, linear) for grad, linear in zip(grads, linears, strict=True)]
    if any(linear.lora for linear in linears):
        products.append(_grads_low(grads, linears, x.dtype) @ _downs(linears, x.dtype))
    total = products[0].float()
    for product in products[1:]:
        total = total + product.float()
    return total, lora_gradients(grads, x, linears)
