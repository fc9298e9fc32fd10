"""The checkpoint that a run goes on from, and whether it may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ray_s2v.config.job import Job
from ray_s2v.job_file import load_job
from ray_s2v.schema import ConfigError
from ray_s2v.training.contents import damage
from ray_s2v.training.copies import Copies
from ray_s2v.training.progress import NoneWhole, complete_checkpoints, load_progress, newest_whole
from ray_s2v.training.run_folder import alone_in


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


def starting_point(job: Job, note: Callable[[str], object]) -> Path | None:
    """The checkpoint to go on from: the run's own newest whole one, its newest copy, or the one named.

    A copy is brought into the run's folder. Raises ConfigError where that would ignore work done, or all of it is damaged.
    """
    folder = Path(job.run.folder) / "checkpoints"
    there = complete_checkpoints(folder)
    resume = job.checkpoint.resume
    if resume == "none":
        if there:
            raise ConfigError(
                f"checkpoint.resume is none, but {folder} holds {len(there)} checkpoints: take a new run.folder, or remove it"
            )
        if copy := _newest_copy(job):
            raise ConfigError(f"checkpoint.resume is none, but checkpoint.copy_to holds {copy}: name another place, or remove it")
        return None
    chosen = None if resume == "latest" else Path(resume).expanduser().resolve()
    done = load_progress(chosen).step if chosen else 0
    if chosen and chosen.parent == folder:
        if newer := [path.name for step, path in there if step > done and not damage(path)]:
            raise ConfigError(f"checkpoint.resume is {resume}, but {folder} holds newer ones ({', '.join(newer)}): take a new run.folder")
    elif own := _own_newest(job, folder, note):  # another run's is where this one started, if it has come no further
        return own
    if chosen and (reason := damage(chosen)):
        raise ConfigError(f"checkpoint.resume: {chosen} is damaged: {reason}")
    return chosen


def _own_newest(job: Job, folder: Path, note: Callable[[str], object]) -> Path | None:
    """The run's newest whole checkpoint, else the newest copy, brought here. Raises ConfigError where there are damaged ones only."""
    lost: NoneWhole | None = None
    try:
        if own := newest_whole(folder, note):
            return own
    except NoneWhole as error:
        lost = error
    if _newest_copy(job):
        assert job.checkpoint.copy_to
        with alone_in(folder.parent):
            try:
                fetched = Copies(job.checkpoint.copy_to).fetch_newest(folder, note)
            except OSError as error:
                raise ConfigError(f"checkpoint.copy_to: a copy cannot be fetched: {error}") from error
        if fetched:
            return fetched
    if lost:
        raise lost
    return None


def _newest_copy(job: Job) -> str | None:
    if not job.checkpoint.copy_to:
        return None
    try:
        return Copies(job.checkpoint.copy_to).newest()
    except OSError as error:
        raise ConfigError(f"checkpoint.copy_to: {job.checkpoint.copy_to} cannot be read: {error}") from error
