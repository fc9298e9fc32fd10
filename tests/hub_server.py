"""A Hugging Face Hub of our own, spoken to over HTTP on this machine: what huggingface_hub asks for to make a commit, without xet.

What is asked: repos/create, validate-yaml, branch, preupload, the batch of Git LFS, its upload and verification, commit.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

TOKEN = "hf_PlantedTokenThatNobodyMaySee"
LFS_FROM = 2_000  # bytes; below, a file is in the commit itself


@dataclass
class Repository:
    settings: dict[str, Any]
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})  # each a name to its files
    commits: list[str] = field(default_factory=list)  # their summaries


@dataclass
class Failure:
    """What the next requests to a path are answered with."""

    path: str  # that holds this
    status: int  # 0: no answer at all
    times: int = 1_000_000
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class HubServer:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # of LFS, by SHA-256
    failures: list[Failure] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # method and path of each
    is_over: threading.Event = field(default_factory=threading.Event)  # lets hanging requests end


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A hub without repositories that HF_ENDPOINT means inside the block, with the token that it takes in HF_TOKEN."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("HF_ENDPOINT", hub.url)
            environment.setenv("HF_TOKEN", TOKEN)
            environment.setenv("HF_HUB_DISABLE_XET", "1")
            environment.setenv("NO_PROXY", "127.0.0.1")
            environment.delenv("HF_HUB_OFFLINE", raising=False)
            yield hub
    finally:
        hub.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        body = self._body()
        self.hub.requests.append(f"{self.command} {path}")
        for failure in self.hub.failures:
            if failure.path in path and failure.times > 0:
                failure.times -= 1
                if failure.status == 0:
                    self.hub.is_over.wait(60)
                    self.close_connection = True
                    return
                # Some servers repeat what they were asked with.
                return self._send(failure.status, {"error": f"no: {self.headers['Authorization']}"}, failure.headers)
        if not path.startswith("/lfs/") and self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._send(401, {"error": f"Invalid credentials: {self.headers['Authorization']}"})
        self._send(*self._result(path, body))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _result(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                return self._created(json.loads(body))
            case ["api", "validate-yaml"]:
                _, metadata, _ = json.loads(body)["content"].split("---\n", 2)
                is_valid = isinstance(yaml.safe_load(metadata), dict)
                return (200 if is_valid else 400), {"warnings": [], "errors": [] if is_valid else [{"message": "no metadata"}]}
            case ["api", "models", owner, name]:
                return self._described(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "revision", branch]:
                return self._described(f"{owner}/{name}", branch)
            case ["api", "models", owner, name, "branch", branch]:
                branches = self.hub.repositories[f"{owner}/{name}"].branches
                is_new = branch not in branches
                branches.setdefault(branch, dict(branches["main"]))
                return (200 if is_new else 409), {}
            case ["api", "models", owner, name, "preupload", branch]:
                there = self.hub.repositories[f"{owner}/{name}"].branches.get(branch)
                return (404, {"error": "no such revision"}) if there is None else (200, _modes(json.loads(body)["files"], there))
            case ["api", "models", owner, name, "commit", branch]:
                return self._committed(f"{owner}/{name}", branch, [json.loads(line) for line in body.splitlines()])
            case [_, _, "info", "lfs", "objects", "batch"]:
                return 200, {"transfer": "basic", "objects": [self._action(entry) for entry in json.loads(body)["objects"]]}
            case ["lfs", digest]:
                if hashlib.sha256(body).hexdigest() != digest:
                    return 400, {"error": "other bytes than were announced"}
                self.hub.objects[digest] = body
                return 200, {}
            case ["verify", digest]:
                return (200 if len(self.hub.objects.get(digest, b"")) == json.loads(body)["size"] else 422), {}
        return 404, {"error": f"{self.command} {path} is not spoken here"}

    def _created(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        repo_id = f"{asked['organization']}/{asked['name']}"
        is_new = repo_id not in self.hub.repositories
        self.hub.repositories.setdefault(repo_id, Repository(asked))
        return (200 if is_new else 409), {"url": f"{self.hub.url}/{repo_id}"}

    def _described(self, repo_id: str, branch: str) -> tuple[int, dict[str, Any]]:
        if repo_id not in self.hub.repositories:
            return 404, {"error": "Repository not found"}
        return 200, {"id": repo_id, "sha": _sha(self.hub.repositories[repo_id]), "private": True, "tags": [], "siblings": []}

    def _action(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["oid"] in self.hub.objects:
            return entry
        upload, verify = (f"{self.hub.url}/{kind}/{entry['oid']}" for kind in ("lfs", "verify"))
        return entry | {"actions": {"upload": {"href": upload}, "verify": {"href": verify}}}

    def _committed(self, repo_id: str, branch: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        repository = self.hub.repositories[repo_id]
        files = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return 400, {"error": f"{value['path']} was never uploaded"}
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                assert line["key"] == "file", line
                files[value["path"]] = base64.b64decode(value["content"])
        repository.branches[branch] |= files
        repository.commits.append(lines[0]["value"]["summary"])
        return 200, {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{_sha(repository)}", "commitOid": _sha(repository)}


def _modes(files: list[dict[str, Any]], there: dict[str, bytes]) -> dict[str, Any]:
    rows = []
    for file in files:
        mode = "lfs" if file["size"] >= LFS_FROM else "regular"
        row = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        if (old := there.get(file["path"])) is not None:
            row["oid"] = hashlib.sha256(old).hexdigest() if mode == "lfs" else hashlib.sha1(b"blob %d\0" % len(old) + old).hexdigest()
        rows.append(row)
    return {"files": rows}


def _sha(repository: Repository) -> str:
    return hashlib.sha1(repr(repository.commits).encode()).hexdigest()
