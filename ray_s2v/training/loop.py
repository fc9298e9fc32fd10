"""The training loop. It knows neither Ray nor the network's insides: batches come in, records and checkpoints go out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ray_s2v.config.job import Training
from ray_s2v.ranks import everyone
from ray_s2v.schema import Batch, RunStopped, UserError
from ray_s2v.training.engine import Engine
from ray_s2v.training.lack_of_memory import host_peak_gib, lack_told
from ray_s2v.training.schedule import learning_rate

Item = TypeVar("Item")


class UnusableStep(RunStopped):
    """A loss or a gradient is not finite, or no clip of a step could be read; the optimizer has not stepped."""


@dataclass(frozen=True)
class Share:
    """What one worker was given for one global step."""

    slots: list[int]
    clip_ids: list[str]
    errors: list[str]
    wait_s: float  # for data
    refusal: str  # empty, or a user's mistake that only the data's path brought to light


@dataclass(frozen=True)
class Outcome:
    """What came of a worker's share."""

    losses: list[float]
    gradients_finite: bool


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
    report: Callable[[StepRecord], None],
    between: Callable[[int], None],
    at: Callable[[str], object] = lambda place: None,
) -> None:
    """Trains through `steps` of a run of `num_steps`; after each, `between` gets the number of steps done. `at` is told where it is.

    Raises UnusableStep on all workers alike, and RunStopped on the one whose memory runs out.
    """
    workers = dist.get_world_size()
    turns = settings.accumulation(workers)
    for step in steps:
        with lack_told(f"step {step}, worker {dist.get_rank()}", engine.device):
            started = time.monotonic()
            at(f"at step {step}")
            given, share = _next_share(batches, turns)
            shares = everyone(share)
            # DeepSpeed divides by turns and workers; the step's gradient is the mean over the clips that can be read, wherever they lie.
            scale = workers * turns / _count_readable(step, shares)
            at(f"at step {step}, in the network")
            losses = [loss for batch in given for loss in _counted(batch, engine.forward_backward(batch, scale))]
            outcomes = everyone(Outcome(losses, engine.gradients_finite()))
            _check_finite(step, shares, outcomes)
            rate = learning_rate(step, num_steps, settings.learning_rate, settings.warmup_steps)
            at(f"at step {step}, in the optimizer")
            norm = engine.step(rate)
            report(_record(step, shares, outcomes, rate, norm, time.monotonic() - started, engine.device))
        with lack_told(f"after step {step}, worker {dist.get_rank()}", engine.device):
            between(step + 1)


def _next_share(batches: Iterator[Batch], turns: int) -> tuple[list[Batch], Share]:
    """This worker's micro-batches of a step, all at once: whether the step can be run must be known before the first."""
    asked = time.monotonic()
    refusal = ""
    given: list[Batch] = []
    try:
        given = [next(batches) for _ in range(turns)]
    except UserError as error:
        refusal = str(error)

    def joined(name: str) -> list[Any]:
        return [value for batch in given for value in _counted(batch, getattr(batch, name))]

    return given, Share(joined("slots"), joined("clip_ids"), joined("errors"), time.monotonic() - asked, refusal)


def _counted(batch: Batch, values: list[Item]) -> list[Item]:
    """Of a value for each of a batch's clips, those of clips that do not only fill up."""
    return [value for clip, value in zip(batch.clip_ids, values, strict=True) if clip]


def _count_readable(step: int, shares: list[Share]) -> int:
    """Clips of a step that could be read. Stops every worker where there are none, as when a disk goes away, or where data was refused."""
    if refusals := {share.refusal for share in shares if share.refusal}:
        raise UnusableStep("; ".join(sorted(refusals)))
    errors = [error for share in shares for error in share.errors]
    if all(errors):
        reasons = {f"{clip}: {error}" for share in shares for clip, error in zip(share.clip_ids, share.errors, strict=True)}
        raise UnusableStep(f"step {step} stopped before the optimizer: none of its clips could be read: {'; '.join(sorted(reasons))}")
    return errors.count("")


def _check_finite(step: int, shares: list[Share], outcomes: list[Outcome]) -> None:
    """Stops every worker, before the optimizer has moved anything, where one met a loss or gradient that is not finite."""
    found = []
    for worker, (share, outcome) in enumerate(zip(shares, outcomes, strict=True)):
        bad = [clip for clip, loss in zip(share.clip_ids, outcome.losses, strict=True) if not math.isfinite(loss)]
        if bad or not outcome.gradients_finite:
            what = f"the loss of {', '.join(bad)}" if bad else f"a gradient of {', '.join(share.clip_ids)}"
            found.append(f"worker {worker}: {what}")
    if found:
        raise UnusableStep(f"step {step} stopped before the optimizer: not finite: " + "; ".join(found))


def _record(
    step: int, shares: list[Share], outcomes: list[Outcome], rate: float, norm: float, step_s: float, device: torch.device
) -> StepRecord:
    pairs = zip(shares, outcomes, strict=True)
    rows = sorted(row for s, outcome in pairs for row in zip(s.slots, s.clip_ids, outcome.losses, s.errors, strict=True))
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
    return host_peak_gib()
