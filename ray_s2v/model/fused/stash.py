"""What the forward pass keeps for the backward pass, in the GPU's memory or in the host's."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ray_s2v.model.fused.pinned import pinned

AHEAD = 2  # units whose tensors are on their way back while another computes: an injector is done before a block's have come


@dataclass
class _Away:
    """A tensor in host memory, or on its way there or back."""

    role: int  # its place among what a unit keeps
    buffer: Tensor
    host: Tensor  # its view of the tensor's shape
    gone: torch.cuda.Event
    back: tuple[Tensor, torch.cuda.Event] | None = None


@dataclass
class Kept:
    """A unit's tensors, for as long as autograd has need of them."""

    tensors: list[Tensor | _Away | None]
    before: weakref.ref[Kept] | None  # what was kept before it, which will be taken after it


@dataclass
class Stash:
    """Tensors of units, which take theirs in the reverse order.

    Those of the first `units_on_host` positions travel to page-locked host memory beside the computation, and come back while the
    units before them in the backward pass compute.
    """

    units_on_host: int = 0
    _newest: weakref.ref[Kept] | None = None
    _free: dict[int, list[Tensor]] = field(default_factory=dict)  # by role: one's grow to its largest size, and are no other's
    _leaving: deque[list[tuple[Tensor, torch.cuda.Event]]] = field(default_factory=deque)  # by unit
    _streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None

    def keep(self, position: int, tensors: Sequence[Tensor | None]) -> Kept:
        """Keeps the tensors of the unit at a position; nobody must write into them."""
        away = position < self.units_on_host
        if away:
            self._let_go(AHEAD - 1)
            self._leaving.append([])
        kept = Kept([self._sent(role, t) if away and t is not None else t for role, t in enumerate(tensors)], self._newest)
        self._newest = weakref.ref(kept)
        return kept

    def take(self, kept: Kept) -> list[Tensor | None]:
        """The tensors, back on the GPU and no longer kept. Those that will be taken next start coming."""
        assert kept.tensors, "what a unit kept is taken once"
        self._let_go(max(len(self._leaving) - 1, 0))
        for one in (kept, *self._next(kept)):
            self._fetch(one)
        tensors, kept.tensors = kept.tensors, []
        return [self._returned(tensor) if isinstance(tensor, _Away) else tensor for tensor in tensors]

    def _next(self, kept: Kept) -> Iterator[Kept]:
        for _ in range(AHEAD):
            before = kept.before() if kept.before else None
            if before is None:
                return
            yield before
            kept = before

    def _both_ways(self, device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
        if self._streams is None:
            self._streams = torch.cuda.Stream(device), torch.cuda.Stream(device)
        return self._streams

    def _buffer(self, role: int, size: int) -> Tensor:
        """The smallest free one of the role that is large enough, or a new one in place of the largest."""
        free = self._free.setdefault(role, [])
        fitting = [index for index, buffer in enumerate(free) if buffer.numel() >= size]
        if fitting:
            return free.pop(min(fitting, key=lambda index: free[index].numel()))
        if free:
            torch.cuda.synchronize()  # it may still be read
            free.pop(max(range(len(free)), key=lambda index: free[index].numel()))
        return pinned(size)

    def _sent(self, role: int, tensor: Tensor) -> _Away:
        out, _ = self._both_ways(tensor.device)
        size = tensor.numel() * tensor.element_size()
        buffer = self._buffer(role, size)
        # The same strides, so that the kernels meet what they left.
        host = buffer[:size].view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
        out.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(out):
            host.copy_(tensor, non_blocking=True)
            gone = torch.cuda.Event()
            gone.record(out)
        self._leaving[-1].append((tensor, gone))
        return _Away(role, buffer, host, gone)

    def _let_go(self, left: int) -> None:
        """Forgets the units on their way to the host but the last `left`; what is computed next waits for their arrival.

        Until it has arrived a tensor's memory must not be another's. record_stream would leave that to the allocator, which takes
        new memory for as long as launches run ahead of the GPU.
        """
        while len(self._leaving) > left:
            for tensor, gone in self._leaving.popleft():
                torch.cuda.current_stream(tensor.device).wait_event(gone)

    def _fetch(self, kept: Kept) -> None:
        for tensor in kept.tensors:
            if isinstance(tensor, _Away) and tensor.back is None:
                assert self._streams is not None
                stream = self._streams[1]
                device = torch.empty_strided(tensor.host.shape, tensor.host.stride(), dtype=tensor.host.dtype, device=stream.device)
                stream.wait_stream(torch.cuda.current_stream(stream.device))  # the memory may have been another's a moment ago
                stream.wait_event(tensor.gone)
                with torch.cuda.stream(stream):
                    device.copy_(tensor.host, non_blocking=True)
                    arrived = torch.cuda.Event()
                    arrived.record(stream)
                tensor.back = device, arrived

    def _returned(self, away: _Away) -> Tensor:
        assert away.back is not None
        tensor, arrived = away.back
        torch.cuda.current_stream(tensor.device).wait_event(arrived)
        self._free[away.role].append(away.buffer)  # written again only after what this stream does next
        return tensor
