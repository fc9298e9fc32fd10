"""As much of W&B's server as wandb 0.31 asks for: runs by id, their configuration, history lines and files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers import Answer, Request, answering


@dataclass
class KeptRun:
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)  # of the history, by their place
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    name: str | None = None
    exit_codes: list[int] = field(default_factory=list)

    def points(self, chart: str) -> list[tuple[int, float]]:
        return [(line["step"], line[chart]) for _, line in sorted(self.lines.items()) if chart in line]


@dataclass
class Kept:
    url: str = ""
    runs: dict[str, KeptRun] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)


@contextmanager
def wandb_server(kept: Kept | None = None, port: int = 0) -> Iterator[Kept]:
    """A server that keeps what it is sent; `kept`, where it goes on from before."""
    kept = kept or Kept()

    def answer(request: Request) -> Answer:
        if request.path == "/graphql":
            asked = json.loads(request.body)
            return Answer(body=json.dumps({"data": _answered(kept, asked["operationName"], asked["variables"])}).encode())
        if request.path.endswith("/file_stream"):
            _stream(kept.runs[request.path.split("/")[-2]], json.loads(request.body))
        if request.method == "PUT":
            kept.files[request.path.removeprefix("/upload/")] = request.body
        return Answer(body=b"{}")

    with answering(answer, port) as server:
        kept.url, kept.requests = server.url, server.requests
        yield kept


def _stream(run: KeptRun, sent: dict[str, Any]) -> None:
    if history := sent.get("files", {}).get("wandb-history.jsonl"):
        run.lines |= {history["offset"] + place: json.loads(line) for place, line in enumerate(history["content"])}
    if sent.get("complete"):
        run.exit_codes.append(sent["exitcode"])


def _answered(kept: Kept, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
    project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "someone"}}
    match operation:
        case "RunResumeStatus":
            run = kept.runs.get(variables["name"])
            return {"model": project | {"bucket": run and _resumed(variables["name"], run)}}
        case "UpsertBucket":
            run = kept.runs.setdefault(variables["name"], KeptRun())
            run.config |= json.loads(variables["config"] or "{}")
            run.tags = variables["tags"] or run.tags
            run.name = variables["displayName"] or run.name
            bucket = {"id": variables["name"], "name": variables["name"], "displayName": run.name, "project": project}
            return {"upsertBucket": {"bucket": bucket | {"config": "{}", "historyLineCount": len(run.lines)}, "inserted": True}}
        case "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{kept.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
    return {}


def _resumed(run_id: str, run: KeptRun) -> dict[str, Any]:
    last = [json.dumps(line) for _, line in sorted(run.lines.items())[-1:]]
    return {
        "id": run_id,
        "name": run_id,
        "historyLineCount": len(run.lines),
        "eventsLineCount": 0,
        "logLineCount": 0,
        "historyTail": json.dumps(last),
        "eventsTail": "[]",
        "config": json.dumps(run.config),
        "summaryMetrics": "{}",
        "wandbConfig": '{"t": 1}',
        "tags": run.tags,
    }
