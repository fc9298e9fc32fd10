"""What is said where memory runs out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ray_s2v.model.fused.memory import GIB
from ray_s2v.schema import RunStopped

SMALLER = "a lower training.batch_size, resolution or num_frames, and with zero.stage 2 model.base_precision=int8"
LESS_OF_THE_GPU = f"a lower training.gpu_memory_gib, with which more lies elsewhere, model.feed_forward_chunks=4, {SMALLER}"
LESS_OF_THE_HOST = f"a lower training.host_memory_gib, with which less lies there, offload.disk_path, {SMALLER}"

ON_THE_GPU, ON_THE_HOST = "out of memory", "DefaultCPUAllocator: can't allocate memory"


@contextmanager
def lack_told(where: str, device: torch.device) -> Iterator[None]:
    """Raises RunStopped, in words, where memory runs out inside: another try would only get there again."""
    try:
        yield
    except RunStopped:  # has its own words
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        raise RunStopped(f"{where}: {does_not_fit(error, device)}") from error


def is_lack_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or ON_THE_GPU in str(error) or _is_of_the_host(error)


def _is_of_the_host(error: Exception) -> bool:
    return isinstance(error, MemoryError) or ON_THE_HOST in str(error)


def does_not_fit(error: Exception, device: torch.device) -> str:
    """What ran out, how much was in use, and which settings take less."""
    lines = str(error).splitlines() or [type(error).__name__]
    said = ". ".join(next((line for line in lines if ON_THE_GPU in line), lines[0]).split(". ")[:2])
    peak = f"{torch.cuda.max_memory_allocated(device) / GIB:.1f} GiB of the GPU and " if device.type == "cuda" else ""
    less = LESS_OF_THE_HOST if _is_of_the_host(error) else LESS_OF_THE_GPU
    return f"does not fit: {said}. At the peak {peak}{host_peak_gib():.1f} GiB of host memory were in use. Less take {less}"


def host_peak_gib() -> float:
    """Memory of this process on the host, at its peak; page-locked memory is in it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / GIB
