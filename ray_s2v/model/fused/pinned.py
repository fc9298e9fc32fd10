"""Page-locked host memory of just the size asked for."""

from __future__ import annotations

import mmap
import weakref

import torch
from torch import Tensor


class _Pages(mmap.mmap):
    """Memory that can be referred to weakly."""


def pinned(size: int, file: int | None = None) -> Tensor:
    """uint8 [size] in host memory that a GPU copies from and to while it computes; plain memory where there is no GPU.

    file: the descriptor of a file in memory whose bytes they are, shared with the other processes that map it; None: this process's
    own. torch's own pinned memory comes in powers of two: up to twice of what 14B weights take. Raises MemoryError where there is none.
    """
    try:
        if file is None:
            pages = _Pages(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            pages.madvise(mmap.MADV_DONTFORK)  # a child process would get a copy of pages that the GPU writes to
        else:
            pages = _Pages(file, size, flags=mmap.MAP_SHARED)
    except OSError as error:
        raise _lacking(size, str(error)) from error
    buffer = torch.frombuffer(pages, dtype=torch.uint8)
    if torch.cuda.is_available():
        driver, address = torch.cuda.cudart(), buffer.data_ptr()
        status = int(driver.cudaHostRegister(address, size, 0))
        if status != 0:
            raise _lacking(size, f"CUDA's error {status}")
        weakref.finalize(pages, driver.cudaHostUnregister, address)  # before the pages are given back
    return buffer


def _lacking(size: int, why: str) -> MemoryError:
    return MemoryError(f"{size / 2**30:.2f} GiB of host memory could not be page-locked ({why})")
