"""`python -m ray_s2v.check JOB.yaml [section.key=value ...] [--contact-sheet OUT.png]` reads everything and trains nothing.

It writes nothing but the demo's files, the store's manifests and the contact sheet.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from ray_s2v.command import command, say
from ray_s2v.config.job import AMD, Job
from ray_s2v.job_file import dump_job
from ray_s2v.schema import ConfigError

SHEET = "--contact-sheet"


def check(job: Job, sheet: Path | None = None) -> None:
    """Shows the resolved settings, the clips found and rejected, the buckets and the store; draws what the trainer will see."""
    if sheet and (sheet.suffix.lower() != ".png" or not sheet.absolute().parent.is_dir()):
        raise ConfigError(f"{SHEET} {sheet}: must be a .png in a folder that is there")
    import torch

    from ray_s2v.data.encode import wanted_features
    from ray_s2v.reporting.amd import on_amd
    from ray_s2v.reporting.contact_sheet import draw_contact_sheet
    from ray_s2v.reporting.outside import check_services
    from ray_s2v.reporting.store import store_table
    from ray_s2v.reporting.summary import clips_summary, run_summary
    from ray_s2v.training.arrangement import largest_bucket
    from ray_s2v.training.fits import fits
    from ray_s2v.training.prepare import prepare
    from ray_s2v.validation.scenes import with_scenes

    if job.training.worker_gpus and ((job.training.accelerator_type or "").startswith(AMD) or torch.version.hip):
        say(on_amd(job))
    check_services(job)
    prepared = prepare(with_scenes(job), say)
    job = prepared.job
    say(dump_job(job))
    say(clips_summary(job, prepared.plan, prepared.discovery))
    say(run_summary(job, prepared.plan, prepared.held_out, prepared.features, prepared.num_steps, prepared.first_step))
    if job.training.worker_gpus:
        say(fits(job, largest_bucket(prepared.plan, job)))
    if prepared.features.store:
        wanted = wanted_features(prepared.rows(), prepared.features)
        say(store_table(wanted, prepared.features, job.encoders.speech.path, job.encoders.text.path))
    if sheet:
        draw_contact_sheet(prepared.plan, sheet)
        say(f"the contact sheet is in {sheet}")


def _main(arguments: list[str]) -> int:
    sheet = None
    if SHEET in arguments:
        at = arguments.index(SHEET)
        sheet = Path(arguments[at + 1]) if at + 1 < len(arguments) else Path()
        arguments = arguments[:at] + arguments[at + 2 :]
    return command("check", partial(check, sheet=sheet), arguments, more=f" [{SHEET} OUT.png]")


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
