"""The report of a measurement: what people compare, from what each worker measured. Its keys are the words of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import torch

from ray_s2v.benchmark.flops import forward_flops
from ray_s2v.benchmark.measure import Rate, Steps
from ray_s2v.config.job import Job
from ray_s2v.model.rope import bucket_tokens
from ray_s2v.schema import Bucket
from ray_s2v.training.routes import job_routes

PARTS = ("step_ms", "forward_ms", "backward_ms", "optimizer_ms")
SECTIONS = ("model", "offload", "lora", "tread", "zero")
OF_TRAINING = ("batch_size", "workers", "worker_gpus", "gpu_memory_gib", "continuation", "learning_rate")


@dataclass(frozen=True)
class Measured:
    """By one worker."""

    build_s: float
    rate: Rate | None
    host_gib: float
    steps: dict[str, Steps]  # by kind of batch
    gpu_ms: dict[str, dict[str, float]]  # of one more step by kind of batch; empty if none was recorded


def report(
    job: Job, bucket: Bucket, config: Any, device: torch.device, network: str, attention: str | None, workers: Sequence[Measured]
) -> dict[str, Any]:
    """Figures as JSON has them. A list holds one value a worker.

    network: what network_for_training said of it. attention: the fast form's kernel.
    """
    on_gpu, rates = device.type == "cuda", [worker.rate for worker in workers if worker.rate]
    burst, sustained = (mean(r.burst for r in rates), mean(r.sustained for r in rates)) if rates else (None, None)
    kinds = {kind: _kind(job, bucket, config, kind, workers, burst, sustained) for kind in workers[0].steps}
    return {
        "card": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "gpus": len(workers) if on_gpu else 0,
        "torch": torch.__version__,
        "cuda": (torch.version.cuda or torch.version.hip) if on_gpu else None,
        "bucket": str(bucket),
        "settings": dict(settings_of(job)),
        "network": network,
        "attention": attention,
        "build_s": max(worker.build_s for worker in workers),
        "burst_tflop_per_s": burst,
        "sustained_tflop_per_s": sustained,
        "host_gib": [worker.host_gib for worker in workers],
        **kinds,
        "mixed": _mixed(job, kinds),
    }


def shares_of(job: Job) -> dict[str, float]:
    """The kinds of batches that the job trains on, and how many of its batches are of them, from 0 to 1."""
    shares = {"first": 1 - job.training.continuation, "continuation": job.training.continuation}
    return {kind: share for kind, share in shares.items() if share > 0}


def settings_of(job: Job) -> Iterator[tuple[str, Any]]:
    """The settings on which a step's time and memory depend, by their dotted names."""
    settings = job.model_dump(mode="json")
    for section in SECTIONS:
        yield from ((f"{section}.{key}", value) for key, value in settings[section].items())
    yield from ((f"training.{key}", settings["training"][key]) for key in OF_TRAINING)


def _kind(
    job: Job, bucket: Bucket, config: Any, kind: str, workers: Sequence[Measured], burst: float | None, sustained: float | None
) -> dict[str, Any]:
    """Of one kind of batch. A step takes as long as its slowest worker; `each` means one worker's."""
    clips, has_motion = job.training.batch_size, kind == "continuation"
    own = [worker.steps[kind] for worker in workers]
    raw = [
        {**{part: [getattr(step, part) for step in steps] for part in PARTS}, "loss": [step.loss for step in steps]}
        for steps in zip(*(one.steps for one in own), strict=True)
    ]
    parts = {part: median(max(step[part]) for step in raw) for part in PARTS}
    flops = forward_flops(config, bucket, clips, has_motion, job_routes(job, config.num_layers))
    tokens = clips * bucket_tokens(bucket, has_motion)
    seconds = parts["step_ms"] / 1e3
    rate = flops.step / 1e12 / seconds
    gpu_ms = {
        part: [worker.gpu_ms[kind][part] for worker in workers]
        for part in workers[0].gpu_ms.get(kind, {})
        if all(kind in worker.gpu_ms and worker.gpu_ms[kind] for worker in workers)
    }
    return {
        "tokens": tokens,
        "first_step_s": max(one.first_step_s for one in own),
        **parts,
        "loss": mean(raw[-1]["loss"]),
        "allocated_gib": [one.allocated_gib for one in own],
        "reserved_gib": [one.reserved_gib for one in own],
        "linear_tflop": flops.linear / 1e12,
        "attention_tflop": flops.attention / 1e12,
        "model_tflop": flops.step / 1e12,
        "tflop_per_s_each": rate,
        "of_burst": rate / burst if burst else None,
        "of_sustained": rate / sustained if sustained else None,
        **_throughput(seconds, tokens, clips, len(workers)),
        **({"gpu_ms": gpu_ms} if gpu_ms else {}),
        "steps": raw,
    }


def _mixed(job: Job, kinds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of the kinds as `training.continuation` mixes them: the mean step, and what follows from it; the higher of their peaks."""
    shares = shares_of(job)
    step_ms, tokens = (sum(shares[kind] * figures[key] for kind, figures in kinds.items()) for key in ("step_ms", "tokens"))
    both = list(kinds.values())
    on_gpu = both[0]["allocated_gib"][0] is not None
    peaks = {
        key: [max(values) if on_gpu else None for values in zip(*(figures[key] for figures in both), strict=True)]
        for key in ("allocated_gib", "reserved_gib")
    }
    throughput = _throughput(step_ms / 1e3, tokens, job.training.batch_size, job.training.workers.max)
    return {"tokens": tokens, "step_ms": step_ms, **peaks, **throughput}


def _throughput(seconds: float, tokens: float, clips: int, workers: int) -> dict[str, float]:
    """Of a step in which each worker takes so many tokens and clips."""
    return {
        "tokens_per_s_each": tokens / seconds,
        "tokens_per_s": tokens * workers / seconds,
        "clips_per_hour_each": 3600 * clips / seconds,
        "clips_per_hour": 3600 * clips * workers / seconds,
    }
