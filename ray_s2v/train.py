"""`python -m ray_s2v.train JOB.yaml [section.key=value ...]` trains a job to its end."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray_s2v.command import command, say
from ray_s2v.config.job import Job


def train(job: Job) -> None:
    """Trains; returns when the final adapter is written."""
    # Imported when the job has been read: torch and Ray take seconds, a typing mistake should not.
    from ray_s2v.cluster.join import leave_cluster
    from ray_s2v.reporting.hub import Pushes
    from ray_s2v.reporting.outside import Outside, check_services
    from ray_s2v.reporting.report.kept import KeptPage
    from ray_s2v.reporting.summary import clips_summary, run_summary
    from ray_s2v.reporting.terminal import Progress
    from ray_s2v.training.driver import run_training
    from ray_s2v.training.prepare import prepare
    from ray_s2v.training.run_folder import alone_in
    from ray_s2v.validation.beside import Beside
    from ray_s2v.validation.on_workers import OnWorkers
    from ray_s2v.validation.scenes import with_scenes

    check_services(job)
    prepared = prepare(with_scenes(job), say)
    job, num_steps, first_step = prepared.job, prepared.num_steps, prepared.first_step
    say(clips_summary(job, prepared.plan, prepared.discovery))
    say(run_summary(job, prepared.plan, prepared.held_out, prepared.features, num_steps, first_step))
    folder, progress = Path(job.run.folder), Progress(num_steps)
    note = progress.note
    with alone_in(folder), KeptPage(folder, note) as page, Outside(job, folder, num_steps, first_step, note) as outside:
        pushes = Pushes(job, job.hub, note) if job.hub else None

        def show(record: dict[str, Any]) -> None:
            for listener in (progress, page, outside, pushes):
                if listener:
                    listener.show(record)

        with ExitStack() as ends:
            ends.callback(leave_cluster)  # before services are waited for: nothing trains on after Ctrl-C, no GPU is kept for nothing
            place = job.validation and job.validation.place
            beside = ends.enter_context(Beside(prepared, show, note)) if place == "beside" else None
            adapter = run_training(prepared, show, note, beside, OnWorkers(job, num_steps) if place == "workers" else None)
        if pushes:
            pushes.finish(adapter)
    say(f"done: the adapter is in {adapter}; how it went is in {page.path}")


if __name__ == "__main__":
    sys.exit(command("train", train, sys.argv[1:], goes_on="goes on from the last checkpoint"))
