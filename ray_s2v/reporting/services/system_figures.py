"""How busy this machine is."""

from __future__ import annotations

import importlib.util

import psutil
import torch


def system_figures() -> dict[str, float]:
    """By chart: GiB of memory in use, the share of its CPUs since the last call, and the share of time that each GPU computed."""
    figures = {
        "system/host_memory_gib": (memory := psutil.virtual_memory()).used / 2**30,
        "system/host_memory_share": memory.percent / 100,
        "system/cpu_share": psutil.cpu_percent() / 100,
    }
    # torch asks NVIDIA's or AMD's own library; neither call takes memory of a GPU.
    if importlib.util.find_spec("amdsmi" if torch.version.hip else "pynvml"):
        figures |= {f"system/gpu_{gpu}_share": torch.cuda.utilization(gpu) / 100 for gpu in range(torch.cuda.device_count())}
    return figures
