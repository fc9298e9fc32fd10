"""Ray nodes of a test's own, as `ray start` starts them."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import ray
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from tests.cluster.conftest import JOB, ROOT
from tests.cluster.test_submit import ENVIRONMENT, free_port

STORE = 200_000_000  # bytes of a node's object store


@dataclass(frozen=True)
class Head:
    address: str
    dashboard: str

    def start_job(self, *overrides: str) -> subprocess.Popen[str]:
        """`python -m ray_s2v.train` on the demo's job in this cluster."""
        return subprocess.Popen(
            ["python", "-m", "ray_s2v.train", str(JOB), *overrides],
            cwd=ROOT,
            env={**ENVIRONMENT, "RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def nodes(self) -> dict[str, dict[str, float]]:
        """Ids and resources of the nodes that are up."""
        return {node.node_id: node.resources_total for node in list_nodes(self.dashboard) if node.state == "ALIVE"}

    def wait_for_nodes(self, number: int, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while len(nodes := self.nodes()) != number:
            assert time.monotonic() < deadline, f"after {timeout_s} s there are {nodes}"
            time.sleep(0.5)


@contextmanager
def started(*options: str, environment: Mapping[str, str] = {}) -> Iterator[None]:
    """`ray start` with these options; all that it has started is killed in the end."""
    process = subprocess.Popen(
        ["ray", "start", "--block", f"--object-store-memory={STORE}", *options],
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        below = psutil.Process(process.pid).children(recursive=True)
        for child in [process, *below]:
            child.kill()
        psutil.wait_procs(below, timeout=30)
        process.wait()


@contextmanager
def head(*options: str, port: int, environment: Mapping[str, str] = {}) -> Iterator[Head]:
    """A running head, its dashboard on loopback."""
    folder = tempfile.mkdtemp(prefix="ray_")  # a short path: sockets lie in it
    there = Head(f"{ray.util.get_node_ip_address()}:{port}", f"http://127.0.0.1:{free_port()}")
    dashboard = ["--dashboard-host=127.0.0.1", f"--dashboard-port={there.dashboard.rpartition(':')[2]}"]
    with started("--head", f"--port={port}", f"--temp-dir={folder}", *dashboard, *options, environment=environment):
        deadline = time.monotonic() + 60
        while not _is_up(there):
            assert time.monotonic() < deadline, "the head has not started"
            time.sleep(0.2)
        yield there
    shutil.rmtree(folder, ignore_errors=True)


def _is_up(there: Head) -> bool:
    try:
        return bool(there.nodes())
    except (ConnectionError, RayStateApiException):
        return False
