"""The Ray cluster: joining or starting it."""

from __future__ import annotations

import logging
import os
import socket

import ray
import ray.data
from ray._private.utils import read_ray_address

from ray_s2v.model.fused.memory import ALLOCATOR
from ray_s2v.schema import ConfigError

# Read by Ray when it is imported or started. Nothing phones home; the controller looks at its workers every half second instead
# of every two, and for 20 seconds, not 60, for a group of workers to start: after a node's death it first asks for as many as
# before; workers keep the driver's folder, so relative paths mean the same everywhere.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    **ALLOCATOR,
    # Processes that may be starting at once: Ray's default, one a core, makes it warn of our few actors on a small machine.
    "RAY_worker_maximum_startup_concurrency": str(max(8, os.cpu_count() or 0)),
}


def join_cluster() -> None:
    """Joins the running Ray cluster (inside `ray job submit` there is one), else starts Ray on this machine."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # What workers print goes to Ray's logs; what a person should see comes through the relay.
    address = _address()
    # Ray Train's own clean-up asks for the state of the cluster, which it would not find where several run on the machine.
    here = {"RAY_ADDRESS": address} if _answers(address) else {}
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": ENVIRONMENT | here})
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False


def leave_cluster() -> None:
    """Leaves it, or ends what was started on this machine; what this process ran there ends."""
    ray.shutdown()


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
