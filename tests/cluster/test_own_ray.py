"""The Ray that a run starts on this machine is for this machine and its user alone."""

from pathlib import Path

import grpc
import psutil
import pytest
import requests

from tests.cluster.conftest import wait_for_step

pytestmark = pytest.mark.timeout(500)


def option(process: psutil.Process, name: str) -> str | None:
    given = [part.partition("=")[2] for part in process.cmdline() if part.startswith(f"{name}=")]
    return given[0] if given else None


def asked(address: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
    """What the cluster's head says to a stranger's question for its nodes."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")(b"", metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_nobody_else_gets_in(start, kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    run = tmp_path / "run"
    process = start(*kept, "training.steps=6", f"run.folder={run}")
    wait_for_step(run, 0, process)
    below = psutil.Process(process.pid).children(recursive=True)
    (dashboard,) = [one for one in below if any(part.endswith("dashboard/dashboard.py") for part in one.cmdline())]
    port = int(option(dashboard, "--port") or 0)
    url = f"http://127.0.0.1:{port}/api/jobs/"
    token = (Path.home() / ".ray/auth_token").read_text().strip()
    address = option(dashboard, "--gcs-address")
    assert address
    listening = [one.laddr for one in dashboard.net_connections() if one.status == psutil.CONN_LISTEN]
    assert {place.ip for place in listening if place.port == port} == {"127.0.0.1"}
    assert requests.get(url, timeout=30).status_code == 401
    assert requests.get(url, headers={"Authorization": "Bearer wrong"}, timeout=30).status_code == 403
    assert requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).status_code == 200
    assert asked(address) == asked(address, ("authorization", "Bearer wrong")) == grpc.StatusCode.UNAUTHENTICATED
    assert asked(address, ("authorization", f"Bearer {token}")) == grpc.StatusCode.OK
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert token not in said
    assert not [path for path in run.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
