"""The training loop. It knows neither Ray nor the network's insides: batches come in, records and checkpoints go out."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ray_s2v.config import Training
from ray_s2v.schema import Batch, RunStopped
from ray_s2v.training.engine import Engine
from ray_s2v.training.schedule import learning_rate


class UnusableStep(RunStopped):
    """A loss or a gradient is not finite, or no clip of a step could be read; the optimizer has not stepped."""


@dataclass(frozen=True)
class Share:
    """What one worker saw in one global step."""

    slots: list[int]
    clip_ids: list[str]
    errors: list[str]
    losses: list[float]
    gradients_finite: bool
    wait_s: float  # for data


@dataclass(frozen=True)
class StepRecord:
    """One line of steps.jsonl; lists are in slot order."""

    step: int
    loss: float  # mean over the clips that could be read
    learning_rate: float
    gradient_norm: float
    clip_ids: list[str]
    losses: list[float]
    unreadable: dict[str, str]  # clip id -> reason
    step_s: float
    wait_s: float  # of the worker that waited longest
    memory_gib: float  # at its peak, of the first worker's device, or of its process on a CPU


def train(
    engine: Engine,
    batches: Iterator[Batch],
    settings: Training,
    steps: range,
    num_steps: int,
    save_every: int,
    save: Callable[[int], None],
    report: Callable[[StepRecord], None],
) -> None:
    """Trains through `steps` of a run of `num_steps`; `save` gets the number of steps done. Raises UnusableStep."""
    for step in steps:
        started = time.monotonic()
        share = _one_share(engine, batches, settings.accumulation)
        shares = _from_all_workers(share)
        _check_usable(step, shares)
        rate = learning_rate(step, num_steps, settings.learning_rate, settings.warmup_steps)
        norm = engine.step(rate)
        report(_record(step, shares, rate, norm, time.monotonic() - started, engine.device))
        if (step + 1) % save_every == 0 or step + 1 == num_steps:
            save(step + 1)


def _one_share(engine: Engine, batches: Iterator[Batch], accumulation: int) -> Share:
    """Gradients of this worker's micro-batches of a step."""
    share = Share([], [], [], [], True, 0.0)
    wait_s = 0.0
    for _ in range(accumulation):
        asked = time.monotonic()
        batch = next(batches)
        wait_s += time.monotonic() - asked
        share.losses.extend(engine.forward_backward(batch))
        share.slots.extend(batch.slots)
        share.clip_ids.extend(batch.clip_ids)
        share.errors.extend(batch.errors)
    return Share(share.slots, share.clip_ids, share.errors, share.losses, engine.gradients_finite(), wait_s)


def _from_all_workers(share: Share) -> list[Share]:
    shares: list[Share] = [share] * dist.get_world_size()
    dist.all_gather_object(shares, share)
    return shares


def _check_usable(step: int, shares: list[Share]) -> None:
    """Stops every worker, before the optimizer has moved anything, where one met a loss or gradient that is not finite, or all
    clips have become unreadable, as when a disk goes away."""
    reasons = {f"{clip}: {error}" for share in shares for clip, error in zip(share.clip_ids, share.errors, strict=True) if error}
    if all(error for share in shares for error in share.errors):
        raise UnusableStep(f"step {step} stopped before the optimizer: none of its clips could be read: " + "; ".join(sorted(reasons)))
    found = []
    for worker, share in enumerate(shares):
        bad = [clip for clip, loss in zip(share.clip_ids, share.losses, strict=True) if not math.isfinite(loss)]
        if bad or not share.gradients_finite:
            what = f"the loss of {', '.join(bad)}" if bad else f"a gradient of {', '.join(share.clip_ids)}"
            found.append(f"worker {worker}: {what}")
    if found:
        raise UnusableStep(f"step {step} stopped before the optimizer: not finite: " + "; ".join(found))


def _record(step: int, shares: list[Share], rate: float, norm: float, step_s: float, device: torch.device) -> StepRecord:
    rows = sorted(row for s in shares for row in zip(s.slots, s.clip_ids, s.losses, s.errors, strict=True))
    readable = [loss for _, _, loss, error in rows if not error]
    return StepRecord(
        step=step,
        loss=sum(readable) / len(readable) if readable else 0.0,
        learning_rate=rate,
        gradient_norm=norm,
        clip_ids=[clip for _, clip, _, _ in rows],
        losses=[loss for _, _, loss, _ in rows],
        unreadable={clip: error for _, clip, _, error in rows if error},
        step_s=step_s,
        wait_s=max(share.wait_s for share in shares),
        memory_gib=_peak_memory_gib(device),
    )


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
