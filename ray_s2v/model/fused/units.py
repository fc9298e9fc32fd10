"""Blocks and injectors as nodes of autograd: what each keeps, where its weights are, and by which functions it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ray_s2v.model.fused.block import Plan, Shared
from ray_s2v.model.fused.functions import Functions
from ray_s2v.model.fused.residence import Resident, Streamed
from ray_s2v.model.fused.stash import Stash


@dataclass
class Unit:
    """A block or an injector: its position among all of them in the order in which they run, and its trainable parameters."""

    position: int
    adapters: list[nn.Parameter]
    functions: Functions
    residence: Resident | Streamed
    stash: Stash
    constants: Plan
    keep_attention: bool = True
    keep_feed_forward: bool = False  # what enters its GELU, on the GPU


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, unit: Unit, hidden: Tensor, shared: Shared, plan: Plan, *adapters: Tensor) -> Tensor:
        out, attended, lse, before = unit.functions.block_forward(unit.residence.weights(unit.position), hidden, shared, plan)
        if any(ctx.needs_input_grad):
            ctx.unit, ctx.shared, ctx.plan = unit, shared, plan
            ctx.before = before if unit.keep_feed_forward else None
            # Detached, as what comes back from the host is: one compilation for both.
            given = hidden.detach()
            ctx.kept = unit.stash.keep(unit.position, [given, attended, lse] if unit.keep_attention else [given, None, None])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        unit: Unit = ctx.unit
        weights = unit.residence.weights(unit.position)
        kept = unit.stash.take(ctx.kept)
        of_hidden, of_adapters = unit.functions.block_pullback(weights, grad, *kept, ctx.before, ctx.shared, ctx.plan)
        ctx.before = None
        return None, of_hidden, None, None, *of_adapters


class _Injection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, unit: Unit, hidden: Tensor, scale: Tensor, shift: Tensor, sound: Tensor, plan: Plan, *adapters: Tensor) -> Tensor:
        if any(ctx.needs_input_grad):
            ctx.unit, ctx.rest = unit, (scale, shift, sound, plan)
            ctx.kept = unit.stash.keep(unit.position, [hidden.detach()])
        return unit.functions.injection_forward(unit.residence.weights(unit.position), hidden, scale, shift, sound, plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        unit: Unit = ctx.unit
        weights = unit.residence.weights(unit.position)
        (hidden,) = unit.stash.take(ctx.kept)
        of_hidden, of_adapters = unit.functions.injection_pullback(weights, grad, hidden, *ctx.rest)
        return None, of_hidden, None, None, None, None, *of_adapters


def run_block(unit: Unit, hidden: Tensor, shared: Shared, num_noisy: int) -> Tensor:
    """Hidden states after a block; gradients go to `hidden` and the unit's adapters."""
    return _Block.apply(unit, hidden, shared, unit.constants._replace(num_noisy=num_noisy), *_followed(unit))


def run_injection(unit: Unit, hidden: Tensor, scale: Tensor, shift: Tensor, sound: Tensor, num_noisy: int) -> Tensor:
    """Hidden states after an injection; gradients go to `hidden` and the unit's adapters."""
    return _Injection.apply(unit, hidden, scale, shift, sound, unit.constants._replace(num_noisy=num_noisy), *_followed(unit))


def _followed(unit: Unit) -> list[nn.Parameter]:
    """The adapters if a backward pass can come; a node itself sees only whether its inputs want gradients, not that they are off."""
    return unit.adapters if torch.is_grad_enabled() else []
