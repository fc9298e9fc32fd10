"""The four functions that the network runs by, compiled or as they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ray_s2v.model.fused.block import block_forward, block_pullback
from ray_s2v.model.fused.injection import injection_forward, injection_pullback

# One specialisation a function and sequence length: first clips and continuations of every bucket.
LENGTHS = 256


@dataclass(frozen=True)
class Functions:
    block_forward: Callable[..., Any]
    block_pullback: Callable[..., Any]
    injection_forward: Callable[..., Any]
    injection_pullback: Callable[..., Any]


AS_WRITTEN = Functions(block_forward, block_pullback, injection_forward, injection_pullback)


def compiled() -> Functions:
    """The functions compiled at their first use with tensors of a shape, once for all blocks."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LENGTHS)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, 4 * LENGTHS)
    return Functions(*(torch.compile(f, fullgraph=True, dynamic=False) for f in vars(AS_WRITTEN).values()))
