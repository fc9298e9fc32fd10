"""What the forward pass keeps for the backward pass, in the GPU's memory or in the host's."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ray_s2v.model.fused.pinned import pinned


@dataclass
class _Away:
    """A tensor in host memory, or on its way there or back."""

    host: Tensor
    gone: torch.cuda.Event
    back: tuple[Tensor, torch.cuda.Event] | None = None


@dataclass
class Stash:
    """Tensors by the position of the unit that kept them; units take theirs in the reverse order.

    Those of the first `units_on_host` positions travel to page-locked host memory beside the computation, and come back while the
    unit before them in the backward pass computes.
    """

    units_on_host: int = 0
    _kept: dict[int, list[Tensor | _Away | None]] = field(default_factory=dict)
    _buffers: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None

    def keep(self, position: int, tensors: list[Tensor | None]) -> None:
        """Keeps the tensors; the caller must not write into them."""
        if position >= self.units_on_host:
            self._kept[position] = list(tensors)
            return
        self._kept[position] = [t if t is None else self._sent(t, (position, i)) for i, t in enumerate(tensors)]

    def take(self, position: int) -> list[Tensor | None]:
        """The tensors that were kept, which the stash then forgets. What the next unit will take starts coming back."""
        self._fetch(position)
        kept = self._kept.pop(position)
        self._fetch(position - 1)
        return [self._returned(tensor) if isinstance(tensor, _Away) else tensor for tensor in kept]

    def _both_ways(self, device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
        if self._streams is None:
            self._streams = torch.cuda.Stream(device), torch.cuda.Stream(device)
        return self._streams

    def _sent(self, tensor: Tensor, place: tuple[int, int]) -> _Away:
        out, _ = self._both_ways(tensor.device)
        size = tensor.numel() * tensor.element_size()
        if place not in self._buffers or self._buffers[place].numel() < size:
            self._buffers[place] = pinned(size)
        # The same strides, so that the kernels meet what they left.
        host = self._buffers[place][:size].view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
        out.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(out):
            host.copy_(tensor, non_blocking=True)
            gone = torch.cuda.Event()
            gone.record(out)
        tensor.record_stream(out)
        return _Away(host, gone)

    def _fetch(self, position: int) -> None:
        for tensor in self._kept.get(position, []):
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
        return tensor
