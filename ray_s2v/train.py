"""`python -m ray_s2v.train JOB.yaml [section.key=value ...]` trains a job to its end."""

from __future__ import annotations

import sys

from ray_s2v.command import command, say
from ray_s2v.config.job import Job


def train(job: Job) -> None:
    """Trains; returns when the final adapter is written."""
    # Imported when the job has been read: torch and Ray take seconds, a typing mistake should not.
    from ray_s2v.reporting.summary import clips_summary, run_summary
    from ray_s2v.reporting.terminal import Progress
    from ray_s2v.training.driver import run_training
    from ray_s2v.training.prepare import prepare

    prepared = prepare(job, say)
    say(clips_summary(prepared.job, prepared.plan, prepared.discovery))
    say(run_summary(prepared.job, prepared.plan, prepared.held_out, prepared.features, prepared.num_steps, prepared.first_step))
    progress = Progress(prepared.num_steps)
    adapter = run_training(prepared, progress.show, progress.note)
    say(f"done: the adapter is in {adapter}")


if __name__ == "__main__":
    sys.exit(command("train", train, sys.argv[1:], goes_on="goes on from the last checkpoint"))
