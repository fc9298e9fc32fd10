"""Groups of frozen weights outside the GPU: page-locked in the host's memory, or in files on a disk."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ray_s2v.model.fused.pinned import pinned
from ray_s2v.schema import ConfigError


class InMemory:
    """Each group in page-locked memory of its own."""

    def __init__(self) -> None:
        self._groups: list[Tensor] = []

    def room(self, size: int) -> Tensor:
        """uint8 [size] for the next group, to be filled and given to `add`."""
        return pinned(size)

    def add(self, group: Tensor) -> None:
        self._groups.append(group)

    def get(self, group: int, following: int | None) -> Tensor:
        """A group's bytes, page-locked. `following` is what will be asked for next."""
        return self._groups[group]

    def sent(self, group: int, event: torch.cuda.Event) -> None:
        """Tells that the bytes that `get` gave have been read when the event has come."""


class OnDisk:
    """Each group in a file of a folder, from where a thread reads it into one of a few page-locked buffers, one group ahead.

    The files are nameless: they are gone when the process is, however it ends. Raises ConfigError where they cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[int] = []
        self._sizes: list[int] = []
        self._buffers: list[Tensor] = []
        self._read_until: list[torch.cuda.Event | None] = [None, None, None]
        self._holds: dict[int, int] = {}  # group -> buffer, oldest first
        self._coming: dict[int, Future[None]] = {}
        self._reader = ThreadPoolExecutor(1)

    def room(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def add(self, group: Tensor) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file, name = tempfile.mkstemp(dir=self._folder)
            os.unlink(name)
            view, done = group.numpy().data, 0
            while done < len(view):
                done += os.pwrite(file, view[done:], done)
        except OSError as error:
            raise ConfigError(f"offload.disk_path: {self._folder} cannot hold the frozen weights: {error}") from error
        self._files.append(file)
        self._sizes.append(group.numel())

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
        if not self._buffers:
            self._buffers = [pinned(max(self._sizes)) for _ in self._read_until]
        free = [buffer for buffer in range(len(self._buffers)) if buffer not in self._holds.values()]
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
        view, done = self._buffers[buffer][: self._sizes[group]].numpy().data, 0
        while done < len(view):
            count = os.preadv(self._files[group], [view[done:]], done)
            assert count > 0, "the file is as long as it was written"
            done += count
