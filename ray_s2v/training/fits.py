"""What a job's step takes of cards of each size, before there is one."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from ray_s2v.config.job import Job
from ray_s2v.model.fused.memory import Room
from ray_s2v.model.lora import with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Bucket, ConfigError
from ray_s2v.training.arrangement import arrangement_for
from ray_s2v.training.network import Checkpoint, job_lora, why_plain

CARD_SIZES = (24, 48, 80, 141, 192)  # RTX 4090 and A5000, A6000, A100 and H100, H200, MI300X
USABLE_OF_NOMINAL = 0.985  # what a card that is sold as 24 GB shows, in GiB


def fits(job: Job, largest: Bucket) -> str:
    """What a step takes of the worker's share of cards of each size, or why it does not fit; a line each.

    Fetches nothing: at the hub is the 14B.
    """
    if Path(job.model.path).is_dir():
        network = Checkpoint(job.model.path).outline()
    else:
        with torch.device("meta"):
            network = WanS2VTransformer3DModel()
    outline = with_lora(network, job_lora(job), job.run.seed)
    if plain := why_plain(job, outline):
        return f"the network runs in its plain, slower form: {plain}"
    lines = ["a step takes, computed, for the largest batch of one worker, alone on its machine:"]
    for size in CARD_SIZES:
        try:
            gpu_gib = min(job.training.gpu_memory_gib or math.inf, size * USABLE_OF_NOMINAL * job.training.worker_gpus)
            room = Room(gpu_gib, job.training.host_memory_gib or math.inf, disk=job.offload.disk_path != "")
            found = str(arrangement_for(job, outline, room, largest, job.training.workers.min))
        except ConfigError as error:
            found = f"does not fit: {str(error).partition('. ')[0]}"
        lines.append(f"  of {size} GB: {found}")
    return "\n".join(lines)
