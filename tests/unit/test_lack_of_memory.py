"""Memory that runs out is known by its class or its text, and told with figures and the settings that take less."""

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ray_s2v.schema import RunStopped
from ray_s2v.training.lack_of_memory import LESS_OF_THE_GPU, LESS_OF_THE_HOST, host_peak_gib, lack_told

CPU = torch.device("cpu")
MORE_THAN_ANY = 2**50
OF_NCCL = "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"


@pytest.mark.parametrize(
    ("take", "said"),
    [
        (
            lambda: torch.empty(MORE_THAN_ANY),
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496 bytes. At",
        ),
        (lambda: np.empty(MORE_THAN_ANY), "does not fit: Unable to allocate 8.00 PiB for an array with shape (1125899906842624,) and"),
        (lambda: bytearray(2**60), "does not fit: MemoryError. At the peak "),
    ],
)
def test_of_the_host(take: Callable[[], object], said: str) -> None:
    with pytest.raises(RunStopped) as stopped, lack_told("step 7, worker 1", CPU):
        take()
    told = str(stopped.value)
    assert told.startswith("step 7, worker 1: does not fit: ")
    assert said in told
    assert told.endswith(f"{host_peak_gib():.1f} GiB of host memory were in use. Less take {LESS_OF_THE_HOST}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which"),
            "does not fit: CUDA out of memory. Tried to allocate 2.00 GiB. At the peak ",
        ),
        (
            torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other API call. For"),
            "does not fit: CUDA error: out of memory. At the peak ",
        ),
        (RuntimeError(f"{OF_NCCL}Cuda failure 2 'out of memory'"), "does not fit: Cuda failure 2 'out of memory'. At the peak "),
    ],
)
def test_of_the_gpu(error: Exception, said: str) -> None:
    """The errors of CUDA with their own texts, on a machine without a GPU."""
    with pytest.raises(RunStopped) as stopped, lack_told("before step 0, worker 0", CPU):
        raise error
    told = str(stopped.value)
    assert told.startswith(f"before step 0, worker 0: {said}")
    assert told.endswith(LESS_OF_THE_GPU)
    assert stopped.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), RunStopped("step 3: clip: out of memory")],
)
def test_anything_else_goes_on_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, lack_told("step 7, worker 1", CPU):
        raise error
    assert raised.value is error


def test_the_peak_is_in_gib() -> None:
    taken = torch.ones(2**28, dtype=torch.uint8)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert taken.numel() / 2**30 < host_peak_gib() < machine / 2**30
