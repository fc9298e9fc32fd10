"""The Ray that a run starts on this machine is for this machine and its user alone."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from tests.cluster.conftest import wait_for_step
from tests.cluster.heads import ENVIRONMENT

pytestmark = pytest.mark.timeout(500)

JOINING = "import ray; ray.init('{address}', logging_level='ERROR'); print(ray.cluster_resources())"


def option(process: psutil.Process, name: str) -> str | None:
    given = [part.partition("=")[2] for part in process.cmdline() if part.startswith(f"{name}=")]
    return given[0] if given else None


def joined(address: str, token: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HOME": str(home)}
    command = [sys.executable, "-c", JOINING.format(address=address)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_nobody_else_gets_in(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    run = tmp_path / "run"
    process = start("training.steps=6", f"run.folder={run}")
    wait_for_step(run, 0, process)
    below = psutil.Process(process.pid).children(recursive=True)
    (dashboard,) = [one for one in below if any(part.endswith("dashboard/dashboard.py") for part in one.cmdline())]
    url = f"http://127.0.0.1:{option(dashboard, '--port')}/api/jobs/"
    token = (Path.home() / ".ray/auth_token").read_text().strip()
    address = option(dashboard, "--gcs-address")
    assert address
    assert {connection.laddr.ip for connection in dashboard.net_connections() if connection.status == psutil.CONN_LISTEN} <= {"127.0.0.1"}
    assert requests.get(url, timeout=30).status_code == 401
    assert requests.get(url, headers={"Authorization": "Bearer wrong"}, timeout=30).status_code == 403
    assert requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).status_code == 200
    refused = joined(address, "wrong", tmp_path)
    assert refused.returncode != 0
    assert "nauthenticated" in refused.stderr or "InvalidAuthToken" in refused.stderr
    taken = joined(address, token, tmp_path)
    assert "CPU" in taken.stdout, taken.stderr
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert token not in said
    assert not [path for path in run.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
