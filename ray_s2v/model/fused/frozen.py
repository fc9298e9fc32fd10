"""Groups of frozen weights outside the GPU: page-locked in the host's memory, or in a file on a disk; once for all ranks of a machine."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from ray_s2v.model.fused.pinned import pinned
from ray_s2v.ranks import ALONE, Machine
from ray_s2v.schema import ConfigError

GIB = 2**30
BUFFERS = 3  # groups of a file on a disk that are in memory: the one that is sent, the next, and the one before, which is next at the turn
Write = Callable[[int, Tensor], None]  # puts a group's bytes into uint8 [size]


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each group begins in the file, at a page, and where the last one ends."""
    return [0, *accumulate(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes)]


class InMemory:
    """All groups in page-locked memory, which the ranks of a machine share."""

    def __init__(self, machine: Machine = ALONE) -> None:
        self._machine = machine
        self._groups: list[Tensor] = []

    def hold(self, sizes: Sequence[int], write: Write) -> None:
        """Takes groups of so many bytes, written by the machine's first rank."""
        starts = _starts(sizes)

        def filled() -> int:
            file = os.memfd_create("frozen-weights")
            os.ftruncate(file, starts[-1])
            with mmap.mmap(file, starts[-1]) as pages:
                everything = torch.frombuffer(pages, dtype=torch.uint8)
                for group, size in enumerate(sizes):
                    write(group, everything[starts[group] : starts[group] + size])
                del everything  # or the pages cannot be closed
            return file

        file = self._machine.shared_file(filled)
        everything = pinned(starts[-1], file)
        os.close(file)  # the pages stay for as long as they are mapped
        self._groups = [everything[start : start + size] for start, size in zip(starts, sizes, strict=False)]

    def get(self, group: int, following: int | None) -> Tensor:
        """A group's bytes, page-locked. `following` is what will be asked for next."""
        return self._groups[group]

    def sent(self, group: int, event: torch.cuda.Event) -> None:
        """Tells that the bytes that `get` gave have been read when the event has come."""


class OnDisk:
    """All groups in a file in a folder, from where a thread reads them into a few page-locked buffers, one group ahead.

    The file is nameless: it is gone when the processes are, however they end.
    """

    def __init__(self, folder: Path, device: torch.device, machine: Machine = ALONE) -> None:
        self._folder, self._machine = folder, machine
        self._file = -1
        self._sizes: Sequence[int] = []
        self._starts: list[int] = []
        self._buffers: list[Tensor] = []
        self._read_until: list[torch.cuda.Event | None] = [None] * BUFFERS
        self._holds: dict[int, int] = {}  # group -> buffer, oldest first
        self._coming: dict[int, Future[None]] = {}
        # A thread that asks CUDA for anything else first would take memory of the first GPU.
        self._reader = ThreadPoolExecutor(1, initializer=partial(torch.cuda.set_device, device) if device.type == "cuda" else None)

    def hold(self, sizes: Sequence[int], write: Write) -> None:
        """Takes groups of so many bytes, written by the machine's first rank. Raises ConfigError where the folder cannot hold them."""
        self._sizes, self._starts = sizes, _starts(sizes)

        def filled() -> int:
            try:
                file = _nameless(self._folder)
                for group, size in enumerate(sizes):
                    room = torch.empty(size, dtype=torch.uint8)
                    write(group, room)
                    view, done = room.numpy().data, 0
                    while done < size:
                        done += os.pwrite(file, view[done:], self._starts[group] + done)
            except OSError as error:
                raise cannot_hold(self._folder, str(error)) from error
            return file

        self._file = self._machine.shared_file(filled)
        weakref.finalize(self, os.close, self._file)
        self._buffers = [pinned(max(sizes)) for _ in range(BUFFERS)]

    def get(self, group: int, following: int | None) -> Tensor:
        self._start(group)
        self._coming[group].result()
        self._holds[group] = self._holds.pop(group)  # the newest now, or what follows could take its buffer
        if following is not None:
            self._start(following)
        return self._buffers[self._holds[group]][: self._sizes[group]]

    def sent(self, group: int, event: torch.cuda.Event) -> None:
        self._read_until[self._holds[group]] = event

    def _start(self, group: int) -> None:
        if group in self._holds:
            return
        free = [buffer for buffer in range(BUFFERS) if buffer not in self._holds.values()]
        if free:
            buffer = free[0]
        else:
            oldest = next(iter(self._holds))
            self._coming.pop(oldest)
            buffer = self._holds.pop(oldest)
        self._holds[group] = buffer
        self._coming[group] = self._reader.submit(self._read, group, buffer)

    def _read(self, group: int, buffer: int) -> None:
        if event := self._read_until[buffer]:
            event.synchronize()  # the GPU is done with what was in it
        size, start = self._sizes[group], self._starts[group]
        view, done = self._buffers[buffer][:size].numpy().data, 0
        while done < size:
            count = os.preadv(self._file, [view[done:]], start + done)
            assert count > 0, "the file is as long as it was written"
            done += count


def check_disk(folder: Path, size: float) -> None:
    """Raises ConfigError where a folder cannot be written to or has no room for so many bytes."""
    try:
        os.close(_nameless(folder))
    except OSError as error:
        raise cannot_hold(folder, str(error)) from error
    if (free := shutil.disk_usage(folder).free) < size:
        raise cannot_hold(folder, f"they take {size / GIB:.1f} GiB, and {free / GIB:.1f} are free")


def _nameless(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    file, name = tempfile.mkstemp(dir=folder)
    os.unlink(name)
    return file


def cannot_hold(folder: Path, why: str) -> ConfigError:
    return ConfigError(f"offload.disk_path: {folder} cannot hold the frozen weights: {why}")
