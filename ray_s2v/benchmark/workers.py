"""A job's step measured by as many processes of this machine as the job has workers."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_s2v.benchmark.figures import Measured, report
from ray_s2v.benchmark.measure import host_peak_gib, product_rate, timed_steps
from ray_s2v.benchmark.processes import end_with
from ray_s2v.benchmark.random_weights import RandomWeights
from ray_s2v.benchmark.synthetic import bucket_of, synthetic_batch
from ray_s2v.config.job import Job
from ray_s2v.model.fused.memory import GIB
from ray_s2v.model.lora import check_targets
from ray_s2v.model.rope import num_tokens
from ray_s2v.schema import FRAMES_PER_LATENT, LATENT_STRIDE, ConfigError, RunStopped, UserError
from ray_s2v.training.engine import Engine
from ray_s2v.training.network import network_for_training

REPORT, REFUSAL, STOP = "report.json", "refusal", "stop"  # files in which workers leave what came of it
CPU = torch.device("cpu")
LESS_MEMORY = (
    "offload.blocks=true, offload.activations=true, model.feed_forward_chunks=4, model.base_precision=int8, a lower "
    "training.batch_size, resolution or num_frames"
)


@dataclass(frozen=True)
class Task:
    """What the workers measure, and where they leave it."""

    parent: int  # the id of the process that starts them
    job: Job
    steps: int
    port: int
    folder: Path


def run_benchmark(job: Job, steps: int, note: Callable[[str], None]) -> dict[str, Any]:
    """The report of `steps` measured steps of each kind of batch. Raises ConfigError; RunStopped where it does not fit."""
    if job.demo:
        from ray_s2v.demo import prepare_demo  # which draws clips too, for which it needs a video library

        prepare_demo(job.demo)
    weights = RandomWeights(job.model.path, CPU, shared_on_host=False)
    _check(job, weights)
    if not weights.is_here:
        note(f"{job.model.path} is no folder here: random weights of the 14B configuration")
    # As training/cluster.py gives it to Ray's workers; read when a process first touches its GPU.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with tempfile.TemporaryDirectory() as folder:
        task = Task(os.getpid(), job, steps, _free_port(), Path(folder))
        _run_workers(task)
        return json.loads((task.folder / REPORT).read_text())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _check(job: Job, weights: RandomWeights) -> None:
    """Raises ConfigError for what the workers would find out late."""
    workers, gpus = job.training.workers, torch.cuda.device_count()
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
    check_targets(weights.outline(), job.lora.targets, job.lora.layers)


def _run_workers(task: Task) -> None:
    # Daemons end with this process however it ends; what they must not do, start processes by multiprocessing, they do not.
    context = mp.spawn(_worker, args=(task,), nprocs=task.job.training.workers, join=False, daemon=True)
    try:
        while not context.join():
            pass
    except mp.ProcessExitedException as error:
        for file in sorted(task.folder.glob(f"{REFUSAL}*")):
            raise ConfigError(file.read_text()) from None
        for file in sorted(task.folder.glob(f"{STOP}*")):
            raise RunStopped(file.read_text()) from None
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
    workers, rank = task.job.training.workers, str(index)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(task.port), RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(workers))
    if task.job.training.worker_gpus > 0:
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl")
    else:
        device = CPU
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(max((os.cpu_count() or 1) // workers, 1))
        dist.init_process_group("gloo")
    try:
        _measure(index, task, device)
    except UserError as error:
        _stop(task.folder / f"{REFUSAL}{index}", str(error))
    except RunStopped as error:
        _stop(task.folder / f"{STOP}{index}", str(error))
    except (RuntimeError, MemoryError) as error:
        if not _is_lack_of_memory(error):
            raise
        _stop(task.folder / f"{STOP}{index}", does_not_fit(error, device))
    dist.destroy_process_group()


def _stop(file: Path, text: str) -> None:
    file.write_text(text)
    os._exit(1)  # the other workers may wait in a collective, and this one for them


def _is_lack_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error)  # CUDA's own errors have no class


def does_not_fit(error: Exception, device: torch.device) -> str:
    """What ran out, how much was in use, and which settings take less."""
    said = ". ".join(str(error).split(". ")[:2])
    peak = f"{torch.cuda.max_memory_allocated(device) / GIB:.1f} GiB of the GPU and " if device.type == "cuda" else ""
    return f"does not fit: {said}. At the peak {peak}{host_peak_gib():.1f} GiB of host memory were in use. Less take {LESS_MEMORY}"


def _measure(index: int, task: Task, device: torch.device) -> None:
    """Worker 0 writes the report. Raises UserError, RunStopped, or what torch raises where memory runs out."""
    training, notes = task.job.training, list[str]()
    rate = product_rate(device)
    # A step is one micro-batch of each worker here, whatever the job accumulates.
    one_turn = training.model_copy(update={"global_batch": training.workers * training.batch_size})
    job = task.job.model_copy(update={"training": one_turn})
    bucket, weights = bucket_of(job), RandomWeights(job.model.path, device, shared_on_host=device.type != "cpu")
    config = weights.outline().config
    kinds = {"first": False, "continuation": True} if training.continuation > 0 else {"first": False}
    started = time.monotonic()
    size = bucket.num_frames // FRAMES_PER_LATENT, bucket.height // LATENT_STRIDE, bucket.width // LATENT_STRIDE
    tokens = training.batch_size * num_tokens(*size, has_motion=training.continuation > 0)
    model = network_for_training(job, weights, device, tokens, notes.append)
    engine = Engine(model, job, device, None, 0)
    build_s = time.monotonic() - started
    steps = {
        kind: timed_steps(
            engine,
            synthetic_batch(config, bucket, training.batch_size, has_motion, index, device),
            training.learning_rate,
            task.steps,
        )
        for kind, has_motion in kinds.items()
    }
    unit = model.base_model.model.blocks[0].unit
    kernel = unit.constants.kernel if unit else None
    own = Measured(build_s, rate, host_peak_gib(), steps)
    everyone = [own] * training.workers
    dist.all_gather_object(everyone, own)
    if index == 0:
        (task.folder / REPORT).write_text(json.dumps(report(task.job, bucket, config, device, "; ".join(notes), kernel, everyone)))
