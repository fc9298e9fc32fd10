"""The Ray cluster: joining or starting it, and what it can give."""

from __future__ import annotations

import logging
import os

import ray

from ray_s2v.config import Job
from ray_s2v.schema import ConfigError

# Read by Ray when it is imported or started. Nothing phones home; the controller looks at its workers every half second instead
# of every two; workers keep the driver's folder, so relative paths mean the same everywhere.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def join_cluster() -> None:
    """Joins the running Ray cluster (inside `ray job submit` there is one), else starts Ray on this machine."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # What workers print goes to Ray's logs; what a person should see comes through the relay.
    ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": ENVIRONMENT})
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False


def needed(job: Job) -> dict[str, float]:
    """CPUs and GPUs that must be there at the same time: training workers, encoder actors, and one clip being decoded."""
    pools = [job.encoders.vae, job.encoders.speech, job.encoders.text]
    training = job.training
    return {
        "CPU": training.workers * training.worker_cpus + sum(pool.actors * pool.cpus for pool in pools) + job.data.decode_cpus,
        "GPU": training.workers * training.worker_gpus + sum(pool.actors * pool.gpus for pool in pools),
    }


def check_capacity(job: Job) -> None:
    """Raises ConfigError, in words, if the cluster cannot give what the job needs at once."""
    there = ray.cluster_resources()
    short = [f"{amount:g} {name}s, the cluster has {there.get(name, 0):g}" for name, amount in needed(job).items() if amount > there.get(name, 0) + 1e-6]
    if short:
        raise ConfigError(
            f"the job needs {' and '.join(short)}: training.workers = {job.training.workers} with {job.training.worker_cpus:g} CPUs and "
            f"{job.training.worker_gpus:g} GPUs each, beside the encoders' actors and one decoder. Lower training.workers, "
            "training.worker_cpus, encoders.*.cpus or .gpus, or data.decode_cpus, or give Ray more"
        )
