"""Ray nodes of a test's own, as `ray start` starts them."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from tests.cluster.conftest import JOB, ROOT

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",  # a head that only this machine reaches
    "RAY_USAGE_STATS_ENABLED": "0",
}
STORE = 200_000_000  # bytes of a node's object store
DRIVER = "python -m ray_s2v.train"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass(frozen=True)
class Head:
    address: str
    dashboard: str
    session: Path  # the folder of Ray's logs and records
    process: psutil.Process  # with all of the head's processes below it

    def start_job(self, *overrides: str) -> subprocess.Popen[str]:
        """`python -m ray_s2v.train` on the demo's job in this cluster."""
        return subprocess.Popen(
            [*DRIVER.split(), str(JOB), *overrides],
            cwd=ROOT,
            env={**ENVIRONMENT, "RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def submit_job(self, *arguments: str) -> subprocess.Popen[str]:
        """`ray job submit` of `python -m ray_s2v.train` with these arguments; ends when the job does."""
        return subprocess.Popen(
            ["ray", "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--", *DRIVER.split(), *arguments],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def give_notice(self, node: psutil.Process, seconds: int) -> None:
        """Tells Ray that a node will be taken away then, as a cloud does of a spot machine."""
        (raylet,) = [below for below in node.children(recursive=True) if below.name() == "raylet"]
        node_id = next(argument.partition("=")[2] for argument in raylet.cmdline() if argument.startswith("--node_id="))
        reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test", f"--deadline-remaining-seconds={seconds}"]
        subprocess.run(["ray", "drain-node", f"--address={self.address}", f"--node-id={node_id}", *reason], env=ENVIRONMENT, check=True)

    @contextmanager
    def joined(self, *options: str) -> Iterator[psutil.Process]:
        """A node of this cluster, once it is up: two that start at the same moment take each other's sockets, and one gives up."""
        number = len(self.nodes())
        with started(f"--address={self.address}", *options) as node:
            self.wait_for_nodes(number + 1)
            yield node

    def nodes(self) -> dict[str, dict[str, float]]:
        """Ids and resources of the nodes that are up."""
        return {node.node_id: node.resources_total for node in list_nodes(self.dashboard) if node.state == "ALIVE"}

    def wait_for_nodes(self, number: int, timeout_s: float = 180) -> None:
        deadline = time.monotonic() + timeout_s
        while len(nodes := self.nodes()) != number:
            assert time.monotonic() < deadline, f"after {timeout_s} s there are {nodes}"
            time.sleep(0.5)


@contextmanager
def started(*options: str, environment: Mapping[str, str] = {}) -> Iterator[psutil.Process]:
    """`ray start` with these options, all of the node's processes below it; what of them still runs in the end is killed."""
    process = subprocess.Popen(
        ["ray", "start", "--block", f"--object-store-memory={STORE}", *options],
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    node = psutil.Process(process.pid)
    try:
        yield node
    finally:
        if node.is_running():
            kill_tree(node)
        process.wait()


def kill_tree(process: psutil.Process) -> None:
    """Ends a process and all below it at once, as the loss of its machine would."""
    tree = [*process.children(recursive=True), process]
    for one in tree:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(tree, timeout=30)


@contextmanager
def head(*options: str, port: int, environment: Mapping[str, str] = {}) -> Iterator[Head]:
    """A running head that takes jobs, its dashboard on loopback."""
    folder = tempfile.mkdtemp(prefix="ray_")  # a short path: sockets lie in it
    dashboard, agent = free_port(), free_port()
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    with started("--head", *ports, f"--temp-dir={folder}", "--dashboard-host=127.0.0.1", *options, environment=environment) as process:
        there = Head(f"{ray.util.get_node_ip_address()}:{port}", f"http://127.0.0.1:{dashboard}", Path(folder), process)
        deadline = time.monotonic() + 180
        while not _is_up(there, agent):
            assert time.monotonic() < deadline, "the head has not started"
            time.sleep(0.2)
        yield there
    shutil.rmtree(folder, ignore_errors=True)


def _is_up(there: Head, agent: int) -> bool:
    with socket.socket() as asked:
        if asked.connect_ex(("127.0.0.1", agent)):
            return False
    try:
        return bool(there.nodes())
    except (ConnectionError, RayStateApiException):
        return False
