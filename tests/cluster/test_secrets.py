"""Secrets of the environment reach the services that they are for, and nothing that a run or Ray writes, shows or sends."""

import base64
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.cluster.conftest import wait_for_step
from tests.cluster.heads import Head, free_port, head
from tests.hub_server import TOKEN, HubServer, hub_server
from tests.s3 import s3_server
from tests.servers import Answer, Server, answering
from tests.wandb_server import Kept, wandb_server

pytestmark = pytest.mark.timeout(700)

KEY = "planted0wandb0key0that0nobody0may0see0000"
HOOK = "/hooks/planted-hook-that-nobody-may-see"
AWS = "planted-aws-secret-that-nobody-may-see"
SENT = "working_dir_files"  # our own sources, this file among them
SECRETS = [TOKEN, KEY, HOOK, AWS]
APIS = [
    "/api/version",
    "/api/jobs/",
    "/nodes?view=details",
    "/logical/actors",
    *(
        f"/api/v0/{what}?detail=1&limit=1000"
        for what in ("actors", "tasks", "workers", "jobs", "runtime_envs", "placement_groups", "objects")
    ),
]


@dataclass
class Services:
    hub: HubServer
    wandb: Kept
    hook: Server
    environment: dict[str, str]


@contextmanager
def services() -> Iterator[Services]:
    """Servers on this machine for all that a run may send to, and the environment of a machine that knows them and their secrets."""
    before = dict(os.environ)
    with s3_server() as s3, hub_server() as hub, wandb_server() as wandb, answering(lambda _: Answer(204)) as hook:
        s3.create_dir("copies")
        theirs = {name: value for name, value in os.environ.items() if before.get(name) != value}
        own = {"AWS_SECRET_ACCESS_KEY": AWS, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": wandb.url, "RAY_S2V_WEBHOOK": hook.url + HOOK}
        yield Services(hub, wandb, hook, theirs | own)


def with_a_secret(text: bytes) -> list[str]:
    """The secrets that are in a text, plain or as HTTP's basic authentication encodes them."""
    forms = {secret: [secret.encode(), base64.b64encode(f"api:{secret}".encode())] for secret in SECRETS}
    return [secret for secret, written in forms.items() if any(form in text for form in written)]


def files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode) and SENT not in path.parts:
            yield path


def shown(there: Head) -> dict[str, bytes]:
    """What Ray's dashboard says of jobs, tasks, actors and their environments."""
    return {api: requests.get(there.dashboard + api, timeout=60).content for api in APIS}


def command_lines(there: Head) -> list[str]:
    processes = psutil.process_iter(["cmdline"], ad_value=[])
    return [" ".join(process.info["cmdline"] or []) for process in processes]


def test_secrets_are_nowhere(places: list[str], kept: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [
        "training.steps=6",
        "checkpoint.every=3",
        "checkpoint.copy_to=s3://copies/run",
        "tracking.wandb.project=p",
        "tracking.tensorboard=true",
        "hub.repo_id=someone/faces",
        "webhooks=[{url_variable: RAY_S2V_WEBHOOK, kind: raw}]",
    ]
    with services() as known, head("--num-cpus=2", port=free_port(), environment=known.environment) as there:
        submitted = there.submit_job("jobs/demo.yaml", *places, *kept, *settings, f"run.folder={run}")
        wait_for_step(run, 2, submitted)
        running, commands = shown(there), command_lines(there)
        said = submitted.communicate(timeout=300)[0]
        assert submitted.returncode == 0, said
        over = shown(there)
        written = {path: path.read_bytes() for folder in (run, there.session) for path in files(folder)}

    # All were used, and what is searched is there: an unknown place would hold no secret either.
    (repository,) = known.hub.repositories.values()
    assert "adapter_model.safetensors" in repository.branches["main"]
    assert any(request.headers["Authorization"] for request in known.wandb.requests)
    assert {request.path for request in known.hook.requests} == {HOOK}
    assert b"ray_s2v.train" in running["/api/jobs/"]
    assert b"RayTrainWorker" in running["/api/v0/actors?detail=1&limit=1000"]
    assert any("RayTrainWorker" in command for command in commands)
    assert any(b"RayTrainWorker" in data for path, data in written.items() if there.session in path.parents)

    sent: dict[str, Any] = {
        "W&B": [*known.wandb.files.values(), *(request.body for request in known.wandb.requests)],
        "the hub": [*known.hub.objects.values(), *repository.branches["main"].values(), json.dumps(repository.settings).encode()],
        "the webhook": [request.body for request in known.hook.requests],
    }
    assert not with_a_secret(said.encode())
    assert not [line for line in commands if with_a_secret(line.encode())]
    for api, text in [*running.items(), *over.items()]:
        assert not with_a_secret(text), api
    for path, data in written.items():
        assert not with_a_secret(data), path
    for service, bodies in sent.items():
        assert not [body for body in bodies if with_a_secret(body)], service
