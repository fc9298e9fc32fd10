"""Page-locked host memory of just the size asked for."""

from __future__ import annotations

import mmap
import weakref

import torch
from torch import Tensor

from ray_s2v.schema import RunStopped


class _Pages(mmap.mmap):
    """Anonymous memory that can be referred to weakly."""


def pinned(size: int) -> Tensor:
    """uint8 [size] in host memory that a GPU copies from and to while it computes; plain memory where there is no GPU.

    torch's own pinned memory comes in powers of two: up to twice of what 14B weights take. Raises RunStopped where there is none.
    """
    try:
        pages = _Pages(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise _short(size, str(error)) from error
    buffer = torch.frombuffer(pages, dtype=torch.uint8)
    if torch.cuda.is_available():
        driver, address = torch.cuda.cudart(), buffer.data_ptr()
        status = int(driver.cudaHostRegister(address, size, 0))
        if status != 0:
            raise _short(size, f"CUDA's error {status}")
        weakref.finalize(pages, driver.cudaHostUnregister, address)  # before the pages are given back
    return buffer


def _short(size: int, why: str) -> RunStopped:
    return RunStopped(
        f"{size / 2**30:.2f} GiB of host memory could not be page-locked ({why}): give this machine more, or take less of it with "
        "offload.blocks or offload.activations false, or offload.disk_path"
    )
