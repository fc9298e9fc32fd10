"""A job's step measured by as many processes of this machine as the job has workers."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_s2v.benchmark.figures import Measured, report, shares_of
from ray_s2v.benchmark.measure import product_rate
from ray_s2v.benchmark.one_worker import OneWorker
from ray_s2v.benchmark.processes import end_with
from ray_s2v.benchmark.random_weights import RandomWeights
from ray_s2v.config.job import Job
from ray_s2v.model.fused.memory import ALLOCATOR
from ray_s2v.model.lora import check_targets
from ray_s2v.ranks import everyone
from ray_s2v.schema import ConfigError, RunStopped, UserError
from ray_s2v.training.lack_of_memory import does_not_fit, host_peak_gib, is_lack_of_memory
from ray_s2v.training.routes import job_routes

REPORT, REFUSAL, STOP = "report.json", "refusal", "stop"  # files in which workers leave what came of it
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Task:
    """What the workers measure, and where they leave it."""

    parent: int  # the id of the process that starts them
    job: Job
    steps: int
    profile: Path | None  # the folder for traces, if one step more is recorded
    say: Callable[[str], None]  # for worker 0 alone; a function of a module, as it is sent to a process
    folder: Path


def run_benchmark(job: Job, steps: int, profile: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The report of `steps` measured steps of each kind of batch. Raises ConfigError; RunStopped where it does not fit.

    profile: a folder that is there, for traces of one step more. say: a function of a module; a worker's process calls it too.
    """
    if job.demo:
        from ray_s2v.demo import prepare_demo  # which draws clips too, for which it needs a video library

        prepare_demo(job.demo)
    weights = RandomWeights(job.model.path, CPU, shared_on_host=False)
    _check(job, weights)
    if not weights.is_here:
        say(f"{job.model.path} is no folder here: random weights of the 14B configuration")
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as folder:
        task = Task(os.getpid(), job, steps, profile, say, Path(folder))
        _run_workers(task)
        return json.loads((task.folder / REPORT).read_text())


def _check(job: Job, weights: RandomWeights) -> None:
    """Raises ConfigError for what the workers would find out late."""
    workers, gpus = job.training.workers.max, torch.cuda.device_count()
    if job.training.worker_gpus > 0 and workers > gpus:
        raise ConfigError(
            f"training.workers {workers}: the workers take a GPU each, and this machine has {gpus}; give training.workers={max(gpus, 1)}"
            + ("" if gpus else " and training.worker_gpus=0, which runs on the CPU")
        )
    if job.training.worker_gpus == 0 and not weights.is_here:
        raise ConfigError(
            f"model.path {job.model.path}: no folder here, and the 14B configuration is not for a CPU; give a folder whose config.json "
            "describes a small network, or training.worker_gpus=1"
        )
    network = weights.outline()
    check_targets(network, job.lora.targets, job.lora.layers)
    job_routes(job, len(network.blocks))


def _run_workers(task: Task) -> None:
    # Daemons end with this process however it ends; what they must not do, start processes by multiprocessing, they do not.
    context = mp.spawn(_worker, args=(task,), nprocs=task.job.training.workers.max, join=False, daemon=True)
    try:
        while not context.join():
            pass
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        # Another worker's may only be that this one has gone.
        for file in sorted(task.folder.glob(f"{REFUSAL}*")):
            raise ConfigError(file.read_text()) from None
        for file in sorted(task.folder.glob(f"{STOP}*")):
            raise RunStopped(file.read_text()) from None
        if isinstance(error, mp.ProcessRaisedException):
            raise
        raise RunStopped(f"{error}; SIGKILL is what the system sends where host memory runs out") from None
    finally:
        for process in context.processes:
            process.kill()
            process.join()


def _worker(index: int, task: Task) -> None:
    """One worker's process. Ends with exit code 1, at once and with a file that says why, where the settings are at fault."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is asked too, and ends this process
    end_with(task.parent)
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    workers, rank = task.job.training.workers.max, str(index)
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(workers))
    if task.job.training.worker_gpus > 0:
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        _join("nccl", index, task)
    else:
        device = CPU
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(max((os.cpu_count() or 1) // workers, 1))
        _join("gloo", index, task)
    try:
        _measure(index, task, device)
    except UserError as error:
        _stop(task.folder / f"{REFUSAL}{index}", str(error))
    except RunStopped as error:
        _stop(task.folder / f"{STOP}{index}", str(error))
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        _stop(task.folder / f"{STOP}{index}", does_not_fit(error, device))
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # what the profiler leaves running aborts one process in ten at its ordinary end


def _join(backend: str, index: int, task: Task) -> None:
    # They meet in a file: a port that is free now may be another's a moment later.
    method = f"file://{task.folder / 'ranks'}"
    dist.init_process_group(backend, init_method=method, rank=index, world_size=task.job.training.workers.max)


def _stop(file: Path, text: str) -> None:
    file.write_text(text)
    os._exit(1)  # the other workers may wait in a collective, and this one for them


def _measure(index: int, task: Task, device: torch.device) -> None:
    """Worker 0 writes the report. Raises UserError, RunStopped, or what torch raises where memory runs out."""
    rate, kinds = product_rate(device), shares_of(task.job)
    worker = OneWorker(index, task.job, device, task.say if index == 0 else _nothing)
    steps = {kind: worker.timed(kind, task.steps) for kind in kinds}
    host_gib = host_peak_gib()  # before traces are read, which takes memory
    gpu_ms = {kind: worker.recorded(kind, task.profile) for kind in kinds} if task.profile else {}
    measured = everyone(Measured(worker.build_s, rate, host_gib, steps, gpu_ms))
    if index == 0:
        network = "; ".join(worker.notes)
        found = report(task.job, worker.bucket, worker.config, device, network, worker.attention, measured)
        (task.folder / REPORT).write_text(json.dumps(found))


def _nothing(_: str) -> None:
    """What the other workers say."""
