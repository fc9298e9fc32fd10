"""Where blocks' frozen weights lie: with their modules, or outside the GPU, from where groups of blocks stream to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ray_s2v.model.fused.frozen import InMemory, OnDisk

ALIGNMENT = 256  # bytes; what the products' kernels like


class Resident:
    """Weights that stay with their modules."""

    def __init__(self, weights: Sequence[Any]) -> None:
        self._weights = weights

    def weights(self, position: int) -> Any:
        """The weights of the unit at a position."""
        return self._weights[position]


class Streamed:
    """Weights outside the GPU; two groups of units at a time are on it, the second on its way while the first computes.

    Units are used in ascending order, then in descending order. Their modules are left without the frozen weights.
    """

    def __init__(self, weights: Sequence[Any], groups: Sequence[Sequence[int]], store: InMemory | OnDisk, device: torch.device) -> None:
        """The store takes the weights of the machine's first rank; the others' say of what shape and dtype they are."""
        self._flat = [tree_flatten(unit) for unit in weights]
        self._group_of = {position: group for group, positions in enumerate(groups) for position in positions}
        self._device = device
        self._layouts: list[dict[tuple[int, int], tuple[int, Tensor]]] = []  # (unit, leaf) -> (offset, a tensor of its kind)
        self._sizes: list[int] = []
        self._store = store
        frozen: list[dict[tuple[int, int], Tensor]] = []
        for positions in groups:
            layout, size, found = {}, 0, {}
            for position in positions:
                for leaf, value in enumerate(self._flat[position][0]):
                    if isinstance(value, Tensor) and not value.requires_grad:
                        like = torch.empty(value.shape, dtype=value.dtype, device="meta")
                        layout[position, leaf], found[position, leaf] = (size, like), value
                        self._flat[position][0][leaf] = like
                        size += -(-value.numel() * value.element_size() // ALIGNMENT) * ALIGNMENT
            self._layouts.append(layout)
            self._sizes.append(size)
            frozen.append(found)

        def write(group: int, room: Tensor) -> None:
            for key, value in frozen[group].items():
                _part(room, *self._layouts[group][key]).copy_(value)
                _empty(value, device)

        store.hold(self._sizes, write)
        for found in frozen:
            for value in found.values():
                _empty(value, device)
        self._slots = [torch.empty(max(self._sizes), dtype=torch.uint8, device=device) for _ in range(min(2, len(groups)))]
        self._in_slot: dict[int, int] = {}  # group -> slot
        self._arrived: dict[int, torch.cuda.Event] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last = -1

    def weights(self, position: int) -> Any:
        """The weights of the unit at a position; the group that will be used next starts coming."""
        group = self._group_of[position]
        if group != self._last:
            step = 1 if group > self._last else -1
            self._fetch(group, step)
            self._fetch(group + step, step, keep=group)
            self._last = group
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_event(self._arrived[group])
        leaves, spec = self._flat[position]
        slot = self._slots[self._in_slot[group]]
        layout = self._layouts[group]
        return tree_unflatten(
            [_part(slot, *layout[position, leaf]) if (position, leaf) in layout else value for leaf, value in enumerate(leaves)], spec
        )

    def _fetch(self, group: int, step: int, keep: int = -1) -> None:
        """Starts a group's way into the slot that the group `keep` is not in; `step` leads to what will be asked for after it."""
        if group in self._in_slot or not 0 <= group < len(self._sizes):
            return
        taken = self._in_slot.get(keep)
        slot = next(i for i in range(len(self._slots)) if i != taken)
        self._in_slot = {g: s for g, s in self._in_slot.items() if s != slot} | {group: slot}
        following = group + step if 0 <= group + step < len(self._sizes) else None
        source, destination = self._store.get(group, following), self._slots[slot][: self._sizes[group]]
        if self._stream is None:
            destination.copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # the group that was in the slot is done with
        with torch.cuda.stream(self._stream):
            destination.copy_(source, non_blocking=True)
            self._arrived[group] = torch.cuda.Event()
            self._arrived[group].record(self._stream)
        self._store.sent(group, self._arrived[group])


def _empty(tensor: Tensor, device: torch.device) -> None:
    """Leaves the module that has it without its memory."""
    tensor.data = torch.empty(0, dtype=tensor.dtype, device=device)


def _part(buffer: Tensor, offset: int, like: Tensor) -> Tensor:
    """The bytes of a buffer from `offset` on as a tensor of the shape and dtype of `like`."""
    size = like.numel() * like.element_size()
    return buffer[offset : offset + size].view(like.dtype).view(like.shape)
