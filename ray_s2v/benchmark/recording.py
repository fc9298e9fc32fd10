"""A step under torch.profiler: its Chrome trace as a file, and what is in it of the GPU."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from ray_s2v.benchmark.measure import timed_step
from ray_s2v.benchmark.profile import gpu_times
from ray_s2v.schema import Batch
from ray_s2v.training.engine import Engine


def recorded_step(engine: Engine, batch: Batch, learning_rate: float, file: Path) -> dict[str, float]:
    """Trains two steps and writes the second to `file`, a .json.gz; returns its gpu_times, empty on a CPU.

    The first is not in it: the profiler's own start, and memory that another kind of batch had, would be. Raises RunStopped as
    timed_step does.
    """
    on_gpu = engine.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    # The profiler warns each time that only its last cycle is kept; there is one.
    warnings.filterwarnings("ignore", "Warning: Profiler clears events", UserWarning)
    with profile(activities=activities, schedule=schedule(wait=0, warmup=1, active=1)) as profiler:
        timed_step(engine, batch, learning_rate)
        if on_gpu:
            torch.cuda.synchronize(engine.device)  # what other streams copy belongs to the step before
        profiler.step()
        timed_step(engine, batch, learning_rate)
    profiler.export_chrome_trace(str(file))
    with gzip.open(file, "rt", encoding="utf-8") as trace:
        return gpu_times(json.load(trace)["traceEvents"])
