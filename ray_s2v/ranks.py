"""What the ranks of a run tell one another before they train, and what those of one machine share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def everyone(value: T) -> list[T]:
    """What each rank gives, by rank."""
    values = [value]
    if dist.is_initialized():
        values *= dist.get_world_size()
        dist.all_gather_object(values, value)
    return values


@dataclass(frozen=True)
class Machine:
    """The ranks on this rank's machine; the first of them does what is done once for all."""

    ranks: tuple[int, ...]
    is_first: bool

    @classmethod
    def of_this_rank(cls) -> Machine:
        """Told by all ranks to each other: ranks are together if they see each other's processes."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        own = boot, os.readlink("/proc/self/ns/pid"), os.getuid()
        ranks = tuple(rank for rank, place in enumerate(everyone(own)) if place == own)
        return cls(ranks, is_first=not dist.is_initialized() or dist.get_rank() == ranks[0])

    def shared_file(self, make: Callable[[], int]) -> int:
        """A descriptor, in each process, of the nameless file that `make` opens and fills on the first rank; the caller's to close."""
        own = (os.getpid(), make()) if self.is_first else (0, -1)
        process, file = everyone(own)[self.ranks[0]]
        return file if self.is_first else os.open(f"/proc/{process}/fd/{file}", os.O_RDWR)


ALONE = Machine((0,), is_first=True)
