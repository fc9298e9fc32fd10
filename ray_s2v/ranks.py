"""What the ranks of a run tell one another before they train, and what those of one machine share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from ray_s2v.schema import RunStopped

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
    """The ranks that share memory and files with this one; the first of them does what is done once for all."""

    ranks: tuple[int, ...]
    is_first: bool
    share: float = 1.0  # of these ranks among all on the same hardware: several containers may be there

    @classmethod
    def of_this_rank(cls) -> Machine:
        """Told by all ranks to each other: ranks are together if they see each other's processes."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        own = boot, os.readlink("/proc/self/ns/pid"), os.getuid()
        places = everyone(own)
        ranks = tuple(rank for rank, place in enumerate(places) if place == own)
        is_first = not dist.is_initialized() or dist.get_rank() == ranks[0]
        return cls(ranks, is_first, len(ranks) / sum(place[0] == boot for place in places))

    def shared_file(self, make: Callable[[], int]) -> int:
        """A descriptor, in each process, of the nameless file that `make` opens and fills on the first rank; the caller's to close.

        Raises RunStopped where the system lets no process open another's file.
        """
        own = (os.getpid(), make()) if self.is_first else (0, -1)
        process, file = everyone(own)[self.ranks[0]]
        if not self.is_first:
            try:
                file = os.open(f"/proc/{process}/fd/{file}", os.O_RDWR)
            except OSError as error:
                raise RunStopped(
                    f"the frozen weights that process {process} holds for all workers here cannot be opened: {error}"
                ) from error
        everyone(None)  # or the first might close it too soon
        return file


ALONE = Machine((0,), is_first=True)
