"""Two gloo processes of one machine: what they tell each other, and frozen weights that they share."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_s2v.config.job import Job
from ray_s2v.model.flow import clip_losses
from ray_s2v.ranks import Machine, everyone
from ray_s2v.schema import Bucket
from ray_s2v.training.network import Checkpoint, job_lora, network_for_training
from tests.jobs import changed
from tests.spawn.zero_runs import tiny_batch

CPU = torch.device("cpu")
WORKERS = 2


def mapped_in_memory() -> dict[str, int]:
    """Of each file that this process maps and that only lies in memory, its inode and bytes in all mappings."""
    found: dict[str, int] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "frozen-weights" in line:
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            found[line.split()[4]] = found.get(line.split()[4], 0) + end - begin
    return found


def streamed(rank: int, checkpoint: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The losses and gradients of one batch by a network as a worker gets it."""
    job = Job.model_validate(changed({"model.path": str(checkpoint), "training.worker_gpus": 0, **settings}))
    notes: list[str] = []
    model = network_for_training(job, job_lora(job), Checkpoint(str(checkpoint)), CPU, Bucket(64, 64, 8), notes.append)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    losses = clip_losses(model, tiny_batch(1, [0]), 3.0)
    losses.sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {"losses": losses.detach(), "gradients": gradients, "maps": mapped_in_memory(), "notes": notes}


def shared(rank: int, folder: Path) -> dict[str, Any]:
    """What this rank knows of its machine, and what it reads of a file that the first one fills."""
    machine = Machine.of_this_rank()

    def make() -> int:
        file = os.open(folder / "shared", os.O_RDWR | os.O_CREAT)
        os.unlink(folder / "shared")
        os.pwrite(file, f"written by {rank}".encode(), 0)
        return file

    file = machine.shared_file(make)
    return {"ranks": machine.ranks, "is_first": machine.is_first, "read": os.pread(file, 100, 0).decode(), "everyone": everyone(10 * rank)}


def _worker(rank: int, port: int, task: Any, arguments: tuple[Any, ...], out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(WORKERS), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save(task(rank, *arguments), out / f"{rank}.pt")
    dist.destroy_process_group()


def run_on_both(task: Any, out: Path, *arguments: Any) -> list[dict[str, Any]]:
    """What `task` gives on each rank."""
    out.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(port, task, arguments, out), nprocs=WORKERS)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(WORKERS)]
