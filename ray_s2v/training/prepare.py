"""Everything that can be wrong with a job, found before a GPU is asked for and before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray_s2v.config import Job
from ray_s2v.data.discover import Rejected, check_rejected, discover
from ray_s2v.data.plan import Plan
from ray_s2v.demo import prepare_demo
from ray_s2v.location import find_place
from ray_s2v.model.checkpoint import check_checkpoint
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
    start_from = _starting_point(job)
    start = load_progress(start_from) if start_from else None
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

    def place(section: dict[str, str], key: str, where: str, files: tuple[str, ...]) -> None:
        try:
            path, subfolder = find_place(section[key])
        except ConfigError as error:
            wrong.append(f"{where}.{key}: {error}")
            return
        if Path(path).is_dir():
            wrong.extend(f"{where}.{key}: {path} holds no {pattern}" for pattern in files if not any(Path(path).glob(pattern)))
        section[key] = f"{path}/{subfolder}" if subfolder else path

    for name in ("vae", "speech", "text"):
        place(settings["encoders"][name], "path", f"encoders.{name}", ("config.json", "*.safetensors"))
    place(settings["encoders"]["text"], "tokenizer", "encoders.text", ("tokenizer.json",))
    place(settings["model"], "path", "model", ())
    if Path(settings["model"]["path"]).is_dir():
        try:
            check_checkpoint(WanS2VTransformer3DModel, settings["model"]["path"])
        except ConfigError as error:
            wrong.append(f"model.path: {error}")
    for index, source in enumerate(job.data.sources):
        folder = Path(source.path).expanduser().resolve()
        if not folder.is_dir():
            wrong.append(f"data.sources.{index}.path: {source.path}: no such folder")
        settings["data"]["sources"][index]["path"] = str(folder)
    settings["run"]["folder"] = str(Path(job.run.folder).expanduser().resolve())
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Job.model_validate(settings)


def _starting_point(job: Job) -> Path | None:
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
