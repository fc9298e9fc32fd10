"""Everything that can be wrong with a job, found before a GPU is asked for and before anything is written."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from ray_s2v.cluster.capacity import check, for_decoding, for_training, with_place_of_videos
from ray_s2v.cluster.join import join_cluster
from ray_s2v.cluster.supply import growth, supply
from ray_s2v.cluster.waiting import Waiting
from ray_s2v.config.job import Job
from ray_s2v.data.discover import Discovery, check_rejected, discover
from ray_s2v.data.encode import lacking_features
from ray_s2v.data.features import Features
from ray_s2v.data.held_out import held_out_rows
from ray_s2v.data.plan import Plan
from ray_s2v.demo import prepare_demo
from ray_s2v.encoders.identity import identity
from ray_s2v.location import check_place, find_place
from ray_s2v.model.checkpoint import check_checkpoint
from ray_s2v.model.lora import check_targets, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import ConfigError, DataError, PlanRow
from ray_s2v.storage import absolute
from ray_s2v.training.copies import Copies
from ray_s2v.training.interrupt import until_done
from ray_s2v.training.network import job_lora, why_plain
from ray_s2v.training.progress import load_progress
from ray_s2v.training.routes import job_routes
from ray_s2v.training.starting_point import check_same_network, starting_point

TICK_S = 0.1
EXAMINED_S = 3.0  # clips that take longer are new: Ray has to examine them


@dataclass(frozen=True)
class PreparedData:
    """A job whose clips are known: its paths absolute, its plan made."""

    job: Job
    discovery: Discovery
    plan: Plan
    held_out: list[PlanRow]
    features: Features
    num_steps: int

    def rows(self, first_step: int = 0) -> Iterator[PlanRow]:
        """All that the run will see from a step on."""
        return chain(self.held_out, self.plan.rows(first_step, self.num_steps))


@dataclass(frozen=True)
class Prepared(PreparedData):
    """A job that can run: its place in the plan known."""

    fingerprint: str  # of the plan
    first_step: int
    start_from: Path | None  # the checkpoint that it goes on from


def prepare_data(job: Job, note: Callable[[str], None]) -> PreparedData:
    """The job's clips and their plan, without a word about the network; for filling the store. Raises ConfigError or DataError."""
    if job.demo:
        prepare_demo(job.demo)
    job = _with_absolute_paths(job, with_network=False)
    join_cluster()
    return _planned(job, note)


def prepare(job: Job, note: Callable[[str], None]) -> Prepared:
    """The job, checked against files and cluster. Raises ConfigError or DataError; has written nothing but the demo's own files, the
    store's manifests and, where the run's folder lacks it, a copy of the run's checkpoint.
    """
    if job.demo:
        prepare_demo(job.demo)
    job = _with_absolute_paths(job, with_network=True)
    join_cluster()
    there = supply(growth())
    job = with_place_of_videos(job, job.data.features != "store", there)
    check(for_training(job, with_encoders=job.data.features == "stream"), there)
    data = _planned(job, note)
    plan, num_steps, fingerprint = data.plan, data.num_steps, data.plan.fingerprint()
    start_from = starting_point(job, note)
    start = load_progress(start_from) if start_from else None
    if start_from and start:
        check_same_network(job, start_from)
        if start.step > num_steps:
            raise ConfigError(
                f"{start_from} is past the end of this run of {num_steps} steps: raise training.steps, or take a new run.folder"
            )
    if start_from and start and start.plan != fingerprint and start_from.parent == Path(job.run.folder) / "checkpoints":
        raise ConfigError(
            f"{start_from} belongs to another plan: the clips, data.sources, run.seed, training.global_batch, training.continuation or "
            f"dropout changed since. Take a new run.folder; checkpoint.resume={start_from} then carries the adapter over to its step "
            f"{start.step}"
        )
    first_step = start.step if start else 0
    features = _source_of_features(job, data.rows(first_step), data.features)
    check(for_training(job, with_encoders=features.streams), supply(growth()))
    return Prepared(job, data.discovery, plan, data.held_out, features, num_steps, fingerprint, first_step, start_from)


def _planned(job: Job, note: Callable[[str], None]) -> PreparedData:
    waiting = Waiting([for_decoding(job)], note, EXAMINED_S)

    def meanwhile() -> None:
        waiting.look()
        time.sleep(TICK_S)

    discovery = until_done(partial(discover, job.data, job.data.store, note), meanwhile)
    check_rejected([*discovery.clips, *discovery.held_out], discovery.rejected, job.data.max_rejected)
    plan = Plan.of(job, discovery.clips)
    held_out = held_out_rows(discovery.held_out, job.data.sources, job.held_out.clips)
    if not held_out and any(source.is_eval for source in job.data.sources):
        raise DataError("data.sources: of those with is_eval no clip is usable")
    encoders = job.encoders
    features = Features(
        store=job.data.store,
        streams=True,
        vae=identity(encoders.vae.path),
        speech=identity(encoders.speech.path),
        text=f"{identity(encoders.text.path)} {identity(encoders.text.tokenizer, ('tokenizer.json',))}",
        dtype=job.data.feature_dtype,
    )
    return PreparedData(job, discovery, plan, held_out, features, job.training.steps or (job.training.epochs or 0) * plan.steps_per_epoch)


def _source_of_features(job: Job, rows: Iterable[PlanRow], features: Features) -> Features:
    """Whether the rest of the run reads the store, and whether encoders run beside it. Raises ConfigError where it must not miss any."""
    if job.data.features == "stream":
        return replace(features, store="")
    lacking = lacking_features(rows, features)
    if job.data.features == "auto":
        return replace(features, streams=next(lacking, None) is not None)
    if missing := Counter(lacking):
        listed = ", ".join(f"{count} of {kind}" for kind, count in missing.items())
        raise ConfigError(
            f"data.features is store, but {job.data.store} lacks features for the rest of the run: {listed}. "
            "Run `python -m ray_s2v.encode` on the same job first, or say data.features=auto"
        )
    return replace(features, streams=False)


def _with_absolute_paths(job: Job, with_network: bool) -> Job:
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
    if with_network:
        try:
            settings["model"]["path"] = _checked_network(job)
        except ConfigError as error:
            wrong.append(str(error) if str(error).startswith(("lora.", "model.", "offload.", "tread.")) else f"model.path: {error}")
    for index, source in enumerate(settings["data"]["sources"]):
        for name in ("path", "audio_path", "pose_path"):
            if source[name] is not None:
                try:
                    source[name] = absolute(source[name])
                except ConfigError as error:
                    wrong.append(f"data.sources.{index}.{name}: {error}")
    run = Path(job.run.folder).expanduser().resolve()
    settings["run"]["folder"] = str(run)
    above = next(parent for parent in (run, *run.parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        wrong.append(f"run.folder: {above} is no folder that can be written to")
    try:
        settings["data"]["store"] = absolute(job.data.store or str(run / "store"))
    except ConfigError as error:
        wrong.append(f"data.store: {error}")
    if with_network and job.checkpoint.copy_to:
        try:
            settings["checkpoint"]["copy_to"] = _checked_copies(job.checkpoint.copy_to, run / "checkpoints")
        except (ConfigError, OSError) as error:
            wrong.append(f"checkpoint.copy_to: {error}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Job.model_validate(settings)


def _checked_copies(place: str, checkpoints: Path) -> str:
    """The place of copies, once written to. Raises ConfigError and OSError where that cannot be."""
    place = absolute(place)
    if checkpoints == Path(place).resolve():
        raise ConfigError(f"{place} is where the run's checkpoints are themselves: name another place")
    Copies(place).check()
    return place


def _checked_network(job: Job) -> str:
    """The network's place. Raises ConfigError where it, or LoRA on it, cannot be."""
    place = job.model.path
    if Path(find_place(place).path).is_dir():
        place = find_place(place).path
        network = check_checkpoint(WanS2VTransformer3DModel, place)
    else:  # what a hub's repository holds is checked when it has been fetched
        check_place(place, "config.json")
        with torch.device("meta"):
            network = WanS2VTransformer3DModel()
    check_targets(network, job.lora.targets, job.lora.layers)
    why_plain(job, with_lora(network, job_lora(job), job.run.seed))
    job_routes(job, len(network.blocks))
    return place
