"""Who is seen when: a pure function of clips, settings, seed and step. Nothing else in the project draws at random for a sample.

order.py fills the steps with clips, window.py says what of a clip is shown; here both become rows, with the words, the noise and
what is dropped. A step's slots are shared by arithmetic: worker r of n has the slots r, r + n, r + 2n, ...
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ray_s2v.config.job import Dropout, Job
from ray_s2v.config.source import Source
from ray_s2v.data.clip_table import ClipTable
from ray_s2v.data.draws import generator, pick
from ray_s2v.data.order import Order, cells_of
from ray_s2v.data.plan_row import plan_row
from ray_s2v.data.window import can_continue, window_of
from ray_s2v.schema import Clip, DataError, Kind, PlanRow

VERSION = 2  # of what is drawn; a change that gives other rows for the same clips and settings counts it up
SEEN = {"repeats", "weight", "crop", "window", "windows_per_clip", "truncation_mode", "duration_interval"}  # what rows depend on


@dataclass(frozen=True, eq=False)
class Plan:
    """Every row of a run. Small to send: clips are columns, which the processes of a machine share."""

    clips: ClipTable  # by id
    sources: dict[str, Source]  # of these clips, by name
    order: Order
    dropout: Dropout

    @staticmethod
    def of(job: Job, clips: Sequence[Clip]) -> Plan:
        """The plan of a job for the clips that it trains on. Raises DataError naming the buckets that cannot fill a step."""
        if not clips:
            raise DataError("no clips to plan with")
        clips = sorted(clips, key=lambda clip: clip.clip_id)
        named, there = {source.called(): source for source in job.data.sources if not source.is_eval}, {clip.source for clip in clips}
        if absent := [name for name, source in named.items() if source.weight is not None and name not in there]:
            raise DataError(f"data.sources: {', '.join(absent)} has a weight, but no clip that can be used")
        sources = {name: named[name] for name in sorted(there)}
        order = Order(
            buckets=cells_of(clips, sources),
            long=np.array([can_continue(clip) for clip in clips]),
            weighted=any(source.weight is not None for source in sources.values()),
            seed=job.run.seed,
            slots=job.training.global_batch,
            continuation=job.training.continuation,
        )
        _check_buckets(order)
        return Plan(ClipTable.of(clips), sources, order, job.dropout)

    @property
    def slots(self) -> int:
        """Clips of a global step."""
        return self.order.slots

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    @property
    def left_over(self) -> int:
        """Visits, clips * (repeats + 1), that an epoch leaves out; with weights none is."""
        if self.order.weighted:
            return 0
        return sum(int(visits) % self.slots for visits in self.order.num_visits.values())

    def fingerprint(self) -> str:
        """Changes when the position in the plan would mean other clips, or other parts of them.

        Captions, places and digests are left out: files can be moved, written anew and described better between two runs.
        """
        sources = {name: source.model_dump(include=SEEN) for name, source in self.sources.items()}
        order = (self.order.seed, self.order.slots, self.order.continuation)
        facts = [VERSION, order, self.dropout.model_dump(), sources]
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8)
        for clip in self.clips:
            sound_and_pose = (clip.audio_s, clip.audio is not None, clip.pose is not None)
            size = (clip.num_frames, clip.bucket, clip.scaled_width, clip.scaled_height)
            digest.update(json.dumps((clip.clip_id, clip.source, size, sound_and_pose)).encode())
        return digest.hexdigest()

    def rows(self, first_step: int, end_step: int) -> Iterator[PlanRow]:
        """One row a slot, in the order of steps and slots."""
        length = self.steps_per_epoch
        for epoch in range(first_step // length, math.ceil(end_step / length)):
            planned, before = self.order.epoch(epoch), epoch * length
            for step in range(max(first_step, before), min(end_step, before + length)):
                kind: Kind = "continuation" if planned.continued[step - before] else "first"
                for slot, clip in enumerate(self.clips.part(planned.clips[step - before])):
                    yield self._row(step, slot, clip, kind)

    def _row(self, step: int, slot: int, clip: Clip, kind: Kind) -> PlanRow:
        source = self.sources[clip.source]
        draw = generator(self.order.seed, "slot", step, slot)
        for_caption, for_dropout, for_window, noise_level = draw.random(4).tolist()
        noise_seed = int(draw.integers(2**63))
        if source.windows_per_clip is not None:
            draw = generator(self.order.seed, "window", clip.clip_id, kind, pick(for_window, source.windows_per_clip))
        window = window_of(clip, source, kind, draw)
        drop_text, drop_audio = guidance_dropout(for_dropout, self.dropout)
        caption = "" if drop_text else clip.captions[pick(for_caption, len(clip.captions))]
        return plan_row(step, slot, clip, kind, window, caption, drop_audio, noise_level, noise_seed)


def _check_buckets(order: Order) -> None:
    """Raises DataError where a bucket would not be seen in every epoch."""
    small = {bucket: visits for bucket, visits in order.num_visits.items() if visits < order.slots - 1e-6}
    if small:
        has = ", ".join(f"{bucket} has {math.floor(visits * 100) / 100:g}" for bucket, visits in small.items())
        counted = "clips * (repeats + 1), shared out by data.sources.*.weight" if order.weighted else "clips * (repeats + 1)"
        raise DataError(
            f"every bucket must fill a step of training.global_batch = {order.slots} clips, but of {counted}, {has}. "
            "Add clips of that shape, lower training.global_batch, raise repeats or weight of their source, "
            "or merge buckets (data.sources.*.resolution_type=exact, or fewer digits of aspect_rounding)"
        )


def guidance_dropout(uniform: float, dropout: Dropout) -> tuple[bool, bool]:
    """Whether text and sound are dropped, from one number in [0, 1)."""
    both, text = dropout.both, dropout.both + dropout.text
    if uniform < both:
        return True, True
    return uniform < text, text <= uniform < text + dropout.audio
