"""What a run is about to do, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ray_s2v.config.job import Job
from ray_s2v.data.discover import Rejected
from ray_s2v.data.plan import Plan, can_continue
from ray_s2v.schema import FRAME_RATE

MAX_LISTED = 50  # rejected clips


def summary(job: Job, plan: Plan, rejected: Sequence[Rejected], num_steps: int, first_step: int) -> str:
    """Clips and buckets, rejected clips with their reasons, and the shape of the run."""
    seconds = sum(clip.num_frames for clip in plan.clips) / FRAME_RATE
    lines = [f"{len(plan.clips)} clips, {seconds / 60:.1f} minutes, in {len(plan.buckets)} buckets (size@frames):"]
    for bucket, clips in plan.buckets.items():
        lines.append(f"  {bucket!s:>12}  {len(clips)} clips, {sum(map(can_continue, clips))} long enough for continuations")
    if rejected:
        lines.append(f"{len(rejected)} clips rejected:")
        lines += [f"  {clip.path}: {clip.reason}" for clip in rejected[:MAX_LISTED]]
        lines += [f"  and {len(rejected) - MAX_LISTED} more, in rejected.csv"] * (len(rejected) > MAX_LISTED)
    training = job.training
    lines.append(
        f"{num_steps} steps of {plan.slots} clips ({training.workers} workers x {training.accumulation} turns x {training.batch_size}); "
        f"an epoch is {plan.steps_per_epoch} steps and leaves {plan.left_over} clips to the next; ZeRO-{job.zero.stage}, {job.model.dtype}"
    )
    if training.warmup_steps >= num_steps:
        lines.append(f"the learning rate warms up for {training.warmup_steps} steps, all that there are: lower training.warmup_steps")
    if first_step:
        lines.append(f"going on from the checkpoint of step {first_step}")
    return "\n".join(lines)
