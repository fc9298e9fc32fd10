"""What a run is about to do, in tables of at most 120 characters a line."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from posixpath import basename, splitext
from typing import TypeVar

import numpy as np

from ray_s2v.config.job import Job, Pool, Training
from ray_s2v.config.source import Source
from ray_s2v.data.discover import REPORTED_MISMATCH_S, Discovery
from ray_s2v.data.features import Features
from ray_s2v.data.found import Rejected
from ray_s2v.data.plan import Plan
from ray_s2v.reporting.table import WIDTH, end_of, start_of, table
from ray_s2v.schema import FRAME_RATE, Clip, PlanRow

Item = TypeVar("Item")
Key = TypeVar("Key")

MAX_LISTED = 50  # rejected clips, buckets
MAX_REASONS = 20
NAME_WIDTH = 32  # of a source
MAX_INTERVALS = 10  # of sound lengths, before the rest is one
# What differs between clips that are rejected for the same reason: paths, names of files, numbers.
_PATH = re.compile(r"\S*/.*?\.[A-Za-z]\w{1,4}\b|\S*/\S*|\S+\.[A-Za-z]\w{1,4}\b")
_NUMBER = re.compile(r"((?<!\w)[-+])?(?<!\w-)\d+(\.\d+)?(e[-+]?\d+)?")  # but not that of UTF-8


def clips_summary(job: Job, plan: Plan, discovery: Discovery) -> str:
    """The sources and what an epoch takes of each, the lengths of their sounds, the buckets, and what is rejected or doubtful."""
    clips = [*discovery.clips, *discovery.held_out]
    lines = [f"{len(discovery.clips)} clips to train on, {_time(discovery.clips)}; {len(discovery.held_out)} held out; "]
    lines[0] += f"{len(discovery.rejected)} rejected; {discovery.num_reused} were known from before"
    lines += ["", *_sources(job.data.sources, clips, discovery.num_rejected, plan)]
    lines += ["", *_sounds(job.data.sources, clips), "", *_buckets(plan, discovery.clips)]
    if discovery.num_mismatched:
        lines += [
            "",
            f"sound and pictures begin or end more than {REPORTED_MISMATCH_S} s apart in {discovery.num_mismatched} clips, most in",
        ]
        lines.append(f"  {end_of(discovery.worst_mismatch, WIDTH - 14)}: {discovery.worst_mismatch_s:.2f} s")
    if discovery.rejected:
        lines += ["", *_rejected(discovery.rejected)]
    return "\n".join(lines)


def run_summary(job: Job, plan: Plan, held_out: Sequence[PlanRow], features: Features, num_steps: int, first_step: int) -> str:
    """The steps, how workers share them, where features come from, and where the run begins."""
    training, left_out = job.training, plan.left_over
    lines = [
        f"{num_steps} steps of {plan.slots} clips ({_shared(training)}); ZeRO-{job.zero.stage}, {job.model.base_precision}",
        f"an epoch is {plan.steps_per_epoch} steps" + (f" and leaves out {left_out} clips, others each time" if left_out else ""),
    ]
    if job.validation:
        scenes = len(job.validation.all_scenes())
        place = "by the workers, which stop for it" if job.validation.place == "workers" else "beside training"
        lines.append(f"videos of {scenes} scene{'s' * (scenes != 1)} are made every {job.validation.every} steps, {place}")
    if held_out:
        settings, clips = job.held_out, {row["clip_id"] for row in held_out}
        lines.append(
            f"the loss of {len(clips)} held-out clips in {len(held_out)} windows is taken at {settings.levels} levels of noise every "
            f"{settings.every} steps"
        )
    if not features.store:
        lines.append("features are encoded as they are needed and not kept")
    elif features.streams:
        lines.append(f"features come from {end_of(features.store, 60)}; encoders run for those that are not there")
    else:
        lines.append(f"features all come from {end_of(features.store, 60)}; no encoders run")
    if training.warmup_steps >= num_steps:
        lines.append(f"the learning rate warms up for {training.warmup_steps} steps, all that there are: lower training.warmup_steps")
    if first_step:
        lines.append(f"going on from the checkpoint of step {first_step}")
    return "\n".join(lines)


def _shared(training: Training) -> str:
    """How a step's clips are shared out: `2 workers x 4 turns x 1`, of {min, max} `2 to 8 workers x 4 to 1 turns x 1`."""
    workers = training.workers
    turns = Pool(min=training.accumulation(workers.max), max=training.accumulation(workers.min))
    turns_told = f"{turns.max} to {turns.min}" if turns.is_elastic else f"{turns}"
    return f"{workers} workers x {turns_told} turns x {training.batch_size}"


def reason_of(rejected: Rejected) -> str:
    """Why a clip is rejected, in words that all clips of that reason share: `the caption ... is empty`, `# s of sound for # s`."""
    without_details, _, _ = rejected.reason.partition(": ")
    own_files = rf"(?<![\w/]){re.escape(splitext(basename(rejected.path))[0])}\.\w+"  # names with spaces, which no pattern finds
    without_names = _PATH.sub("...", re.sub(own_files, "...", without_details))
    return _NUMBER.sub("#", without_names)


def _sources(sources: Sequence[Source], clips: Sequence[Clip], num_rejected: Mapping[str, int], plan: Plan) -> list[str]:
    by_source = _grouped(clips, [clip.source for clip in clips])
    visits: dict[str, float] = defaultdict(float)
    for cell in (cell for cells in plan.order.buckets.values() for cell in cells):
        visits[cell.source] += cell.share if plan.order.weighted else len(cell.clips) * cell.times
    rows = []
    for source in sources:
        name = source.called()
        share = "held out" if source.is_eval else f"{visits[name] / sum(visits.values()):.1%}"
        weight = "" if source.weight is None else f"{source.weight:g}"
        there = by_source.get(name, [])
        rows.append([end_of(name, NAME_WIDTH), str(len(there)), str(num_rejected[name]), _time(there), share, weight, str(source.repeats)])
    return table(["source", "clips", "rejected", "length", "of an epoch", "weight", "repeats"], rows)


def _sounds(sources: Sequence[Source], clips: Sequence[Clip]) -> list[str]:
    """Of each source a line: how many sounds of how many seconds there are, by its `duration_interval`."""
    by_source = _grouped(clips, [clip.source for clip in clips])
    names = [end_of(source.called(), NAME_WIDTH) for source in sources]
    width = max(map(len, names))
    lines = ["seconds of sound: clips"]
    for source, name in zip(sources, names, strict=True):
        there, interval = by_source.get(source.called(), []), source.duration_interval
        counts = sorted(Counter(math.floor(clip.audio_s / interval) for clip in there if clip.audio).items())
        silent = sum(clip.audio is None for clip in there)
        counted = (_lengths(counts, interval, silent, most) for most in range(MAX_INTERVALS, -1, -1))
        lines.append(f"  {name:<{width}}  {next(text for text in counted if len(text) <= WIDTH - width - 4)}")
    return lines


def _lengths(counts: Sequence[tuple[int, int]], interval: float, silent: int, most: int) -> str:
    """The first `most` intervals that there are, each with its number of clips, and all others as one."""
    parts = [f"{start * interval:g}-{(start + 1) * interval:g}: {count}" for start, count in counts[:most]]
    if rest := counts[most:]:
        parts.append(f"{rest[0][0] * interval:g} and more: {sum(count for _, count in rest)}")
    return ", ".join([*parts, *([f"none: {silent}"] if silent else [])])


def _buckets(plan: Plan, clips: Sequence[Clip]) -> list[str]:
    by_bucket = _grouped(clips, [clip.bucket for clip in clips])
    visits = plan.order.num_visits
    rows = []
    for bucket, cells in plan.order.buckets.items():
        can_continue = sum(int(np.count_nonzero(plan.order.long[cell.clips])) for cell in cells)
        steps = visits[bucket] / plan.slots
        shown_steps = f"{steps:.1f}" if plan.order.weighted else str(math.floor(steps))
        rows.append([str(bucket), str(len(by_bucket[bucket])), _time(by_bucket[bucket]), shown_steps, str(can_continue)])
    heads = ["bucket: size@frames", "clips", "length", "steps an epoch", "long enough to be continued"]
    return table(heads, rows[:MAX_LISTED]) + [f"  and {len(rows) - MAX_LISTED} more"] * (len(rows) > MAX_LISTED)


def _rejected(rejected: Sequence[Rejected]) -> list[str]:
    """How often each reason is, the most frequent first, with one of its clips; then the clips."""
    by_reason = _grouped(rejected, map(reason_of, rejected))
    lines = [f"{len(rejected)} clips are rejected:"]
    if len(by_reason) < len(rejected):
        for reason, these in sorted(by_reason.items(), key=lambda item: -len(item[1]))[:MAX_REASONS]:
            count_and_reason = f"  {len(these):>7}  {start_of(reason, 60)}"
            lines.append(f"{count_and_reason}, such as {end_of(these[0].path, WIDTH - 10 - len(count_and_reason))}")
        lines += [f"  and {len(by_reason) - MAX_REASONS} more reasons"] * (len(by_reason) > MAX_REASONS)
        lines.append("each of them:" if len(rejected) <= MAX_LISTED else f"the first {MAX_LISTED} of them:")
    for one in rejected[:MAX_LISTED]:
        path = end_of(one.path, max(WIDTH - 4 - len(one.reason), 50))
        lines.append(start_of(f"  {path}: {one.reason}", WIDTH))
    return lines + [f"  and {len(rejected) - MAX_LISTED} more, in rejected.csv"] * (len(rejected) > MAX_LISTED)


def _grouped(items: Iterable[Item], keys: Iterable[Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    return groups


def _time(clips: Iterable[Clip]) -> str:
    """How long they are together."""
    seconds = sum(clip.num_frames for clip in clips) / FRAME_RATE
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
