"""`ray job submit` against a head of its own on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import ROOT, records

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",  # a head that only this machine reaches
    "RAY_USAGE_STATS_ENABLED": "0",
}
pytestmark = pytest.mark.timeout(400)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """Address of a running head's dashboard."""
    folder = tempfile.mkdtemp(prefix="ray_")  # a short path: sockets lie in it
    port, dashboard_port = free_port(), free_port()
    head = subprocess.Popen(
        [
            "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        ],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while socket.socket().connect_ex(("127.0.0.1", dashboard_port)):
        assert head.poll() is None
        assert time.monotonic() < deadline, "the head has not started"
        time.sleep(0.2)
    yield f"http://127.0.0.1:{dashboard_port}"
    started = psutil.Process(head.pid).children(recursive=True)  # asked to end, `ray start --block` takes half a minute
    for process in [psutil.Process(head.pid), *started]:
        process.kill()
    psutil.wait_procs(started, timeout=30)
    head.wait()
    shutil.rmtree(folder, ignore_errors=True)


def submit(dashboard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--", "python", "-m", "ray_s2v.train", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_demo_runs_as_a_submitted_job(dashboard, places, tmp_path):
    run = tmp_path / "run"
    done = submit(dashboard, "jobs/demo.yaml", *places, f"run.folder={run}", "training.steps=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert len(records(run)) == 3
    assert (run / "adapter/adapter_model.safetensors").is_file()


def test_a_wrong_job_fails_with_its_message(dashboard):
    failed = submit(dashboard, "jobs/demo.yaml", "training.learning_rat=1", "zero.stage=9")
    said = failed.stdout + failed.stderr
    assert failed.returncode == 1, said
    assert "Traceback" not in said
    assert "training.learning_rat: unknown; did you mean learning_rate?" in said
    assert "zero.stage: must be 0, 1, 2 or 3 (it is 9)" in said
    assert "exit code 2" in said
