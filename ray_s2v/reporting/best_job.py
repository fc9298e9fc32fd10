"""The best trial of a sweep as a job file that trains by itself."""

from __future__ import annotations

from typing import Any

from ray_s2v.config.job import Job
from ray_s2v.config.sweep import Sweep
from ray_s2v.job_file import dump_job
from ray_s2v.location import find_place
from ray_s2v.reporting.trials import TrialRecord
from ray_s2v.storage import absolute
from ray_s2v.sweep_file import described, trial_job


def best_job(sweep: Sweep, name: str, best: TrialRecord, folder: str, store: str) -> str:
    """YAML of a job with a trial's settings and every local path absolute, under a comment that says where they are from.

    name: of the sweep's file. folder: of the job's run, none of a trial's. store: the one that the trials share. Raises ConfigError
    where a model's folder is gone.
    """
    assert best.loss is not None
    assert absolute(folder) != absolute(best.folder)
    job = trial_job(sweep, best.values | {"run.folder": absolute(folder), "data.store": store})
    lines = [f"The best trial of {name}: {best.name}", described(best.values)]
    if sweep.pbt:
        lines.append("These are its last values: pbt has changed them on the way.")
    lines += [f"Loss of the held-out clips after {best.steps} steps: {best.loss:.6g}", f"Its run: {best.folder}"]
    return "".join(f"# {line}\n" for line in lines) + dump_job(_with_absolute_paths(job))


def _with_absolute_paths(job: Job) -> Job:
    """The job as it reads in any folder; repositories of the hub stay what they are."""
    settings = job.model_dump()

    def model(section: dict[str, Any], key: str) -> None:
        path, subfolder = find_place(section[key])
        section[key] = f"{path}/{subfolder}" if subfolder else path

    def file(section: dict[str, Any] | None, key: str) -> None:
        if section and section[key]:
            section[key] = absolute(section[key])

    for section in (*settings["encoders"].values(), settings["model"]):
        model(section, "path")
    model(settings["encoders"]["text"], "tokenizer")
    for source in settings["data"]["sources"]:
        for key in ("path", "audio_path", "pose_path"):
            file(source, key)
    file(settings["data"], "store")
    file(settings["demo"], "folder")
    file(settings["offload"], "disk_path")
    if job.checkpoint.resume not in ("latest", "none"):
        file(settings["checkpoint"], "resume")
    return Job.model_validate(settings)
