"""`python -m ray_s2v.check JOB.yaml [section.key=value ...]` reads everything, trains nothing, writes nothing but the demo's files."""

from __future__ import annotations

import sys

from ray_s2v.command import command, say
from ray_s2v.config.job import Job
from ray_s2v.job_file import dump_job


def check(job: Job) -> None:
    """Shows the resolved settings, the clips found and rejected, and the buckets."""
    from ray_s2v.reporting.summary import summary
    from ray_s2v.training.prepare import prepare

    prepared = prepare(job)
    say(dump_job(prepared.job))
    say(summary(prepared.job, prepared.plan, prepared.rejected, prepared.num_steps, prepared.first_step))


if __name__ == "__main__":
    sys.exit(command("check", check, sys.argv[1:]))
