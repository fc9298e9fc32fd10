"""Where a job's network and what a step keeps are to lie, from what there is of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel

from ray_s2v.config.job import Job
from ray_s2v.data.plan import Plan
from ray_s2v.model.fused.memory import GIB, Arrangement, Need, Room, arranged
from ray_s2v.model.rope import bucket_tokens
from ray_s2v.ranks import Machine, everyone
from ray_s2v.schema import Bucket, ConfigError
from ray_s2v.training.host_memory import settled_host_gib
from ray_s2v.training.routes import tokens_in_blocks


def largest_bucket(plan: Plan, job: Job) -> Bucket:
    """The bucket of which a batch has most tokens."""
    return max(plan.order.buckets, key=lambda bucket: bucket_tokens(bucket, job.training.continuation > 0))


def memory_gib(job: Job, device: torch.device) -> float | None:
    """What this worker may take of the GPU's memory; None on a CPU."""
    if device.type == "cpu":
        return None
    total = torch.cuda.get_device_properties(device).total_memory / GIB
    return job.training.gpu_memory_gib or total * job.training.worker_gpus


def room_of(job: Job, gpu_gib: float | None, machine: Machine) -> Room | None:
    """What there is for each rank, the same for all: of the poorest. They must agree on what streams. None on CPUs."""
    if gpu_gib is None:
        return None
    host_gib = job.training.host_memory_gib or settled_host_gib(machine.share)
    gpus, hosts, ranks = zip(*everyone((gpu_gib, host_gib, len(machine.ranks))), strict=True)
    return Room(min(gpus), min(hosts), max(ranks), job.offload.disk_path != "")


def check_fewest(job: Job, outline: PeftModel, room: Room | None, largest: Bucket) -> None:
    """Raises ConfigError where not all numbers of workers that the job allows can hold the shards of ZeRO-3 among them."""
    workers = job.training.workers
    if job.zero.stage == 3 and workers.is_elastic and room:
        alone = replace(room, ranks=min(room.ranks, workers.min))
        try:
            arrangement_for(job, outline, alone, largest, workers.min)
        except ConfigError as error:
            raise ConfigError(
                f"training.workers.min {workers.min}: of so few workers each would have too large a shard: {error}"
            ) from error


def arrangement_for(job: Job, outline: PeftModel, room: Room | None, largest: Bucket, workers: int) -> Arrangement:
    """Where things lie in so much room, for one of so many workers; all in one place on a CPU, for which there is none.

    outline: the network with its adapter; it may be without memory. Raises ConfigError if a step does not fit.
    """
    model, offload, zero = job.model, job.offload, job.zero
    network = outline.base_model.model
    if room is None:
        return Arrangement(offload.blocks is True, 0, len(network.blocks) if model.checkpointing == "full" else 0, 0, 0.0, 0.0)
    tokens = tokens_in_blocks(job, largest, len(network.blocks))
    need = Need.of(
        network, model.base_precision, tokens, offload.blocks_per_group, model.feed_forward_chunks, compiled=model.compile is not False
    )
    if zero.stage == 3:
        on_gpu = need.blocks / workers + (need.blocks / zero.hpz if zero.hpz > 1 else 0)
        need = replace(need, blocks=2 * need.group + (on_gpu if zero.offload == "none" else 0))
        if zero.offload == "cpu":
            need = replace(need, shards_on_host=on_gpu)
    checkpointing: Any = model.checkpointing
    return arranged(need, room, checkpointing, offload.blocks if zero.stage < 3 else False, offload.activations)
