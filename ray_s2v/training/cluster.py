"""The Ray cluster: joining or starting it, and what it can give."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ray
import ray.data
from ray._private.utils import read_ray_address

from ray_s2v.config.job import Job
from ray_s2v.model.fused.memory import ALLOCATOR
from ray_s2v.schema import ConfigError

# Read by Ray when it is imported or started. Nothing phones home; the controller looks at its workers every half second instead
# of every two; workers keep the driver's folder, so relative paths mean the same everywhere.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    **ALLOCATOR,
    # Processes that may be starting at once: Ray's default, one a core, makes it warn of our few actors on a small machine.
    "RAY_worker_maximum_startup_concurrency": str(max(8, os.cpu_count() or 0)),
}

TYPE = "accelerator_type:"  # before the name of each kind of GPU among a cluster's resources


def join_cluster() -> None:
    """Joins the running Ray cluster (inside `ray job submit` there is one), else starts Ray on this machine."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # What workers print goes to Ray's logs; what a person should see comes through the relay.
    ray.init(address=_address(), logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": ENVIRONMENT})
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False


def _address() -> str:
    """The cluster that RAY_ADDRESS names or that `ray start` left running on this machine; "local" if there is none.

    Ray itself would try for minutes to join a cluster that is not there. Raises ConfigError if nothing answers at RAY_ADDRESS.
    """
    if named := os.environ.get("RAY_ADDRESS"):
        if _answers(named) is False:
            raise ConfigError(f"RAY_ADDRESS is {named}, where nothing answers: start the cluster, or unset it to run on this machine")
        return named
    noted = read_ray_address()
    return noted if noted and _answers(noted) else "local"


def _answers(address: str) -> bool | None:
    """Whether something listens at host:port; None for addresses of other kinds."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return None
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def check_training(job: Job, with_encoders: bool) -> None:
    """Raises ConfigError, in words, if the cluster cannot give at once what training needs: the workers, one row being fetched, and
    the least of each encoder's actors where they run beside it.
    """
    training, encoders = job.training, job.encoders
    asked = [
        Asked(f"training.workers = {training.workers}", training.workers, training.worker_cpus, training.worker_gpus),
        Asked("data.decode_cpus", 1, job.data.decode_cpus, 0),
    ]
    types = {"training.accelerator_type": training.accelerator_type}
    if with_encoders:
        for name, encoder in (("vae", encoders.vae), ("speech", encoders.speech), ("text", encoders.text)):
            asked.append(Asked(f"encoders.{name}.actors = {encoder.actors.min}", encoder.actors.min, encoder.cpus, encoder.gpus))
            types[f"encoders.{name}.accelerator_type"] = encoder.accelerator_type
    _check(asked, types)


def check_encoding(job: Job, kind: str) -> None:
    """Raises ConfigError, in words, if the cluster cannot give what filling the store with one kind of features needs."""
    encoder = {"video": job.encoders.vae, "speech": job.encoders.speech, "text": job.encoders.text}[kind]
    name = {"video": "vae"}.get(kind, kind)
    asked = [
        Asked(f"encoders.{name}.actors = {encoder.actors.min}", encoder.actors.min, encoder.cpus, encoder.gpus),
        Asked("data.decode_cpus", 1, job.data.decode_cpus, 0),
    ]
    _check(asked, {f"encoders.{name}.accelerator_type": encoder.accelerator_type})


class Asked(NamedTuple):
    """What some setting makes the job ask of the cluster."""

    setting: str
    number: int
    cpus: float
    gpus: float


def _check(asked: Sequence[Asked], types: Mapping[str, str | None]) -> None:
    there = ray.cluster_resources()
    wrong = [
        f"{setting} is {kind}, of which the cluster has none; it has {_listed(there) or 'no GPUs'}"
        for setting, kind in types.items()
        if kind and f"{TYPE}{kind}" not in there
    ]
    needed = {"CPU": sum(one.number * one.cpus for one in asked), "GPU": sum(one.number * one.gpus for one in asked)}
    short = [
        f"{amount:g} {name}s (the cluster has {there.get(name, 0):g})"
        for name, amount in needed.items()
        if amount > there.get(name, 0) + 1e-6
    ]
    if short:
        parts = "; ".join(f"{one.setting} with {one.cpus:g} CPUs and {one.gpus:g} GPUs each" for one in asked)
        wrong.append(f"the job needs {' and '.join(short)}: {parts}. Lower some of these, or give Ray more")
    if wrong:
        raise ConfigError("\n".join(wrong))


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(sorted(name.removeprefix(TYPE) for name in resources if name.startswith(TYPE)))
