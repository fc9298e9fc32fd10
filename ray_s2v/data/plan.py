"""Who is seen when: a pure function of clips, seed and step. Nothing else in the project draws at random for a sample.

An epoch takes each bucket's clips in a new order and cuts them into global steps of `slots` clips, all of one bucket and one
kind. Fewer than `slots` clips of a bucket are left over in an epoch; which ones changes with the epoch. A step's slots are
shared by arithmetic: worker r of n has the slots r, r + n, r + 2n, ...
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ray_s2v.config.job import Dropout, Job
from ray_s2v.schema import HISTORY_FRAMES, Bucket, Clip, DataError, Kind, PlanRow

VERSION = 1  # of what this file draws; a change that gives other rows for the same clips counts it up


def generator(*key: int | str) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def min_history(num_frames: int) -> int:
    """Frames that must lie before a continuation's window: what the sampler has after one first clip of that length, at most 73."""
    return min(HISTORY_FRAMES, num_frames - 3)


def can_continue(clip: Clip) -> bool:
    return clip.num_frames - clip.bucket.num_frames >= min_history(clip.bucket.num_frames)


@dataclass(frozen=True)
class Step:
    """The clips of one global step, in slot order."""

    kind: Kind
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Plan:
    """Every step of a run."""

    clips: tuple[Clip, ...]
    seed: int
    slots: int  # clips of a global step
    continuation: float  # share of steps with motion history
    dropout: Dropout

    @staticmethod
    def of(job: Job, clips: Sequence[Clip]) -> Plan:
        """The plan of a job. Raises DataError naming the buckets that cannot fill a step."""
        training = job.training
        plan = Plan(tuple(sorted(clips, key=lambda c: c.clip_id)), job.run.seed, training.global_batch, training.continuation, job.dropout)
        if not plan.clips:
            raise DataError("no clips to plan with")
        if small := {b: len(c) for b, c in plan.buckets.items() if len(c) < plan.slots}:
            listed = ", ".join(f"{bucket} has {count}" for bucket, count in small.items())
            raise DataError(
                f"every bucket must fill a step of training.global_batch = {plan.slots} clips, but {listed}. Add clips of that shape, "
                "lower training.global_batch, or merge buckets (data.sources.*.resolution_type=exact, or fewer digits of aspect_rounding)"
            )
        return plan

    @property
    def buckets(self) -> dict[Bucket, list[Clip]]:
        grouped = defaultdict(list)
        for clip in self.clips:
            grouped[clip.bucket].append(clip)
        return dict(sorted(grouped.items()))

    @property
    def steps_per_epoch(self) -> int:
        return sum(len(clips) // self.slots for clips in self.buckets.values())

    @property
    def left_over(self) -> int:
        """Clips that an epoch does not see."""
        return len(self.clips) - self.steps_per_epoch * self.slots

    def fingerprint(self) -> str:
        """Changes when the position in the plan would mean other clips."""
        clips = [(clip.clip_id, clip.num_frames, clip.bucket) for clip in self.clips]
        facts = [VERSION, self.seed, self.slots, self.continuation, self.dropout.model_dump(), clips]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()

    def rows(self, first_step: int, end_step: int) -> Iterator[PlanRow]:
        """One row a slot, in the order of steps and slots."""
        length = self.steps_per_epoch
        for epoch in range(first_step // length, math.ceil(end_step / length)):
            for index, planned in enumerate(epoch_steps(self, epoch)):
                if first_step <= (step := epoch * length + index) < end_step:
                    yield from (self._row(step, slot, clip, planned.kind) for slot, clip in enumerate(planned.clips))

    def _row(self, step: int, slot: int, clip: Clip, kind: Kind) -> PlanRow:
        draw = generator(self.seed, "slot", step, clip.clip_id)
        num_frames = clip.bucket.num_frames
        last_start = clip.num_frames - num_frames
        start = int(draw.integers(min_history(num_frames) if kind == "continuation" else 0, last_start + 1))
        outside = [*range(start), *range(start + num_frames, clip.num_frames)]
        reference = outside[int(draw.integers(len(outside)))] if outside else start
        caption = clip.captions[int(draw.integers(len(clip.captions)))]
        drop_text, drop_audio = guidance_dropout(draw.random(), self.dropout)
        return PlanRow(
            step=step,
            slot=slot,
            clip_id=clip.clip_id,
            path=clip.path,
            caption="" if drop_text else caption,
            kind=kind,
            width=clip.bucket.width,
            height=clip.bucket.height,
            start_frame=start,
            num_frames=num_frames,
            reference_frame=reference,
            drop_audio=drop_audio,
            noise_level=float(draw.random()),
            noise_seed=int(draw.integers(2**63)),
        )


def guidance_dropout(uniform: float, dropout: Dropout) -> tuple[bool, bool]:
    """Whether text and sound are dropped, from one number in [0, 1)."""
    both, text = dropout.both, dropout.both + dropout.text
    if uniform < both:
        return True, True
    return uniform < text, text <= uniform < text + dropout.audio


def epoch_steps(plan: Plan, epoch: int) -> list[Step]:
    """All steps of an epoch in their order: a `continuation` share of each bucket's steps, as far as its clips are long enough."""
    steps = []
    for bucket, clips in plan.buckets.items():
        draw = generator(plan.seed, "epoch", epoch, str(bucket))
        shuffled = [clips[i] for i in draw.permutation(len(clips))]
        num_steps = len(clips) // plan.slots
        longer = [clip for clip in shuffled if can_continue(clip)]
        # The fraction of a step is drawn, so that over epochs the share is met.
        wanted = math.floor(plan.continuation * num_steps + draw.random())
        continued = longer[: min(wanted, len(longer) // plan.slots) * plan.slots]
        chosen = {clip.clip_id for clip in continued}
        fresh = [clip for clip in shuffled if clip.clip_id not in chosen]
        steps += [Step("continuation", group) for group in _groups(continued, plan.slots)]
        steps += [Step("first", group) for group in _groups(fresh, plan.slots)]
    return [steps[i] for i in generator(plan.seed, "order", epoch).permutation(len(steps))]


def _groups(clips: list[Clip], size: int) -> Iterator[tuple[Clip, ...]]:
    """Whole groups of `size`; the rest is left out."""
    return (tuple(itertools.islice(clips, i, i + size)) for i in range(0, len(clips) - size + 1, size))
