"""The four functions that the network runs by, compiled or as they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from ray_s2v.model.fused.block import block_forward, block_pullback
from ray_s2v.model.fused.injection import injection_forward, injection_pullback
from ray_s2v.schema import ConfigError

# One specialisation a function and sequence length: first clips and continuations of every bucket. Compiled once for all lengths,
# a step takes 3.7 % longer (9.77 against 9.42 s on an H100).
LENGTHS = 256


@dataclass(frozen=True)
class Functions:
    block_forward: Callable[..., Any]
    block_pullback: Callable[..., Any]
    injection_forward: Callable[..., Any]
    injection_pullback: Callable[..., Any]


AS_WRITTEN = Functions(block_forward, block_pullback, injection_forward, injection_pullback)


def compiled(note: Callable[[str], object], is_wanted: bool = False) -> Functions:
    """The functions compiled at their first use with tensors of a shape, once for all blocks.

    One that does not compile here runs as it is written from then on, and `note` is told; ConfigError if it `is_wanted` compiled.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LENGTHS)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, 4 * LENGTHS)
    return Functions(*(_Compiled(f, note, is_wanted) for f in vars(AS_WRITTEN).values()))


class _Compiled:
    def __init__(self, written: Callable[..., Any], note: Callable[[str], object], is_wanted: bool) -> None:
        self._written, self._note, self._is_wanted = written, note, is_wanted
        self._run = torch.compile(written, fullgraph=True, dynamic=False)

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._run(*arguments)
        except TorchDynamoException as error:
            name, why = self._written.__name__, str(error).splitlines()[0]
            if self._is_wanted:
                raise ConfigError(f"model.compile true: {name} does not compile here: {why}; give auto or false") from error
            self._note(f"{name} does not compile here and runs as it is written, slower: {why}")
            self._run = self._written
            return self._run(*arguments)
