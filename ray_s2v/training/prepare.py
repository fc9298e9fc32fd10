"""Everything that can be wrong with a job, found before a GPU is asked for and before anything is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ray_s2v.config.job import Job
from ray_s2v.data.discover import Rejected, check_rejected, discover
from ray_s2v.data.plan import Plan
from ray_s2v.demo import prepare_demo
from ray_s2v.job_file import load_job
from ray_s2v.location import check_place, find_place
from ray_s2v.model.checkpoint import check_checkpoint
from ray_s2v.model.lora import check_targets
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import ConfigError
from ray_s2v.training.cluster import check_capacity, join_cluster
from ray_s2v.training.progress import complete_checkpoints, load_progress


@dataclass(frozen=True)
class Prepared:
    """A job that can run: its paths absolute, its plan made, its place in it known."""

    job: Job
    rejected: list[Rejected]
    plan: Plan
    num_steps: int
    first_step: int
    start_from: Path | None  # the checkpoint that it goes on from


def prepare(job: Job) -> Prepared:
    """The job, checked against files and cluster. Raises ConfigError or DataError; has written nothing but the demo's own files."""
    if job.demo:
        prepare_demo(job.demo)
    job = _with_absolute_paths(job)
    join_cluster()
    check_capacity(job)
    clips, rejected = discover(job.data)
    check_rejected(clips, rejected, job.data.max_rejected)
    plan = Plan.of(job, clips)
    num_steps = job.training.steps or (job.training.epochs or 0) * plan.steps_per_epoch
    start_from = starting_point(job)
    start = load_progress(start_from) if start_from else None
    if start_from and start:
        check_same_network(job, start_from)
        if start.step > num_steps:
            raise ConfigError(
                f"{start_from} is past the end of this run of {num_steps} steps: raise training.steps, or take a new run.folder"
            )
    if start_from and start and start.plan != plan.fingerprint() and start_from.parent == Path(job.run.folder) / "checkpoints":
        raise ConfigError(
            f"{start_from} belongs to another plan: the clips, run.seed, training.global_batch, training.continuation or dropout changed "
            f"since. Take a new run.folder; checkpoint.resume={start_from} then carries the adapter over to its step {start.step}"
        )
    return Prepared(job, rejected, plan, num_steps, start.step if start else 0, start_from)


def _with_absolute_paths(job: Job) -> Job:
    """The job with local folders as every process sees them; hub ids stay. Raises ConfigError listing all that is not there."""
    settings = job.model_dump()
    wrong: list[str] = []

    def place(section: dict[str, str], key: str, where: str, file: str) -> None:
        try:
            path, subfolder = find_place(section[key])
            check_place(section[key], file)
            section[key] = f"{path}/{subfolder}" if subfolder else path
        except ConfigError as error:
            wrong.append(f"{where}.{key}: {error}")

    for name in ("vae", "speech", "text"):
        place(settings["encoders"][name], "path", f"encoders.{name}", "config.json")
    place(settings["encoders"]["text"], "tokenizer", "encoders.text", "tokenizer.json")
    try:
        model = settings["model"]
        if Path(find_place(model["path"]).path).is_dir():
            model["path"] = find_place(model["path"]).path
            network = check_checkpoint(WanS2VTransformer3DModel, model["path"])
        else:  # what a hub's repository holds is checked when it has been fetched
            check_place(model["path"], "config.json")
            with torch.device("meta"):
                network = WanS2VTransformer3DModel()
        check_targets(network, job.lora.targets, job.lora.layers)
    except ConfigError as error:
        wrong.append(str(error) if str(error).startswith("lora.") else f"model.path: {error}")
    for index, source in enumerate(job.data.sources):
        folder = Path(source.path).expanduser().resolve()
        if not folder.is_dir():
            wrong.append(f"data.sources.{index}.path: {source.path}: no such folder")
        settings["data"]["sources"][index]["path"] = str(folder)
    run = Path(job.run.folder).expanduser().resolve()
    settings["run"]["folder"] = str(run)
    above = next(parent for parent in (run, *run.parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        wrong.append(f"run.folder: {above} is no folder that can be written to")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Job.model_validate(settings)


def check_same_network(job: Job, start_from: Path) -> None:
    """Raises ConfigError where the adapter of a checkpoint belongs elsewhere than the job says."""
    before = load_job(str(start_from / "job.yaml"))
    facts = {
        "model.path": (before.model.path, job.model.path),
        "lora.rank": (before.lora.rank, job.lora.rank),
        "lora.targets": (sorted(before.lora.targets), sorted(job.lora.targets)),
        "lora.layers": (before.lora.layers, job.lora.layers),
    }
    if changed := [f"{name} was {old}, is {new}" for name, (old, new) in facts.items() if old != new]:
        raise ConfigError(f"{start_from} was trained otherwise: {'; '.join(changed)}. Change that back, or take a new run.folder")


def starting_point(job: Job) -> Path | None:
    """The checkpoint to go on from: the run's own newest, or the one named. Raises ConfigError where that would ignore work done."""
    folder = Path(job.run.folder) / "checkpoints"
    there = complete_checkpoints(folder)
    resume = job.checkpoint.resume
    if resume == "none" and there:
        raise ConfigError(f"checkpoint.resume is none, but {folder} holds {len(there)} checkpoints: take a new run.folder, or remove it")
    if resume in ("none", "latest"):
        return there[-1][1] if there else None
    chosen = Path(resume).expanduser().resolve()
    done = load_progress(chosen).step
    if chosen.parent != folder:  # another run's: where this one started, if it has come no further
        return there[-1][1] if there else chosen
    if newer := [path.name for step, path in there if step > done]:
        raise ConfigError(f"checkpoint.resume is {resume}, but {folder} holds newer ones ({', '.join(newer)}): take a new run.folder")
    return chosen
