"""Pushing to the Hugging Face Hub: attempts with pauses between them, and a run's adapters beside its training."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from ray_s2v.config.hub import Hub
from ray_s2v.config.job import Job
from ray_s2v.reporting.hub_folder import fill_folder
from ray_s2v.reporting.upload import Answer, Upload
from ray_s2v.schema import ConfigError

TOKEN = "HF_TOKEN"
YES = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads its switches


class NotPushed(Exception):
    """The hub did not take a folder; the message is the reason, without the token."""


@dataclass(frozen=True)
class Patience:
    """How long a push goes on after failures that may pass."""

    attempts: int = 3
    first_wait_s: float = 5.0  # three times as long each time: a run whose hub is dead is to end; who asked too often pushes later
    silence_s: float = 30.0  # of the hub within a request
    total_s: float = 3600.0  # all attempts together; a GB takes a quarter of an hour at 10 Mbit a second


def check_hub(hub: Hub) -> list[str]:
    """What stands in the way of pushing, as far as this machine can tell; asks nobody."""
    mistakes = []
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        mistakes.append(f"hub.repo_id: {TOKEN} is not set: give a token that may write to {hub.repo_id}, or leave hub out")
    elif not (token.isascii() and token.isprintable()) or " " in token:
        mistakes.append(f"hub.repo_id: what {TOKEN} holds is no token of the hub")
    if (offline := os.environ.get("HF_HUB_OFFLINE", "")).upper() in YES:
        mistakes.append(f"hub.repo_id: HF_HUB_OFFLINE is {offline}, so nothing can be pushed: unset it, or leave hub out")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not endpoint.startswith(("https://", "http://")):
        mistakes.append(f"hub.repo_id: HF_ENDPOINT is {endpoint!r}: must begin with https://")
    return mistakes


def push_folder(folder: Path, hub: Hub, message: str, patience: Patience = Patience()) -> str:
    """The address of the commit that holds all files of the folder. Raises NotPushed when `patience` ends, or nothing can help."""
    ends_at = time.monotonic() + patience.total_s
    upload = Upload(str(folder), hub.repo_id, hub.private, hub.revision, message, patience.silence_s)
    wait_s = patience.first_wait_s
    for attempt in range(1, patience.attempts + 1):
        left_s = ends_at - time.monotonic()
        answer = _attempt(upload, left_s)
        if answer.url:
            return answer.url
        if answer.is_lasting or attempt == patience.attempts or time.monotonic() + wait_s >= ends_at:
            tries = "" if attempt == 1 else f" (the last of {attempt} attempts)"
            raise NotPushed(answer.reason + tries)
        time.sleep(wait_s)
        wait_s *= 3
    raise AssertionError("the last attempt ends in one of the above")


def push_adapter(run: Path, adapter: Path, job: Job, hub: Hub, steps: int | None, patience: Patience = Patience()) -> str:
    """The address of the commit that holds an adapter of this run with its card; what was sent is in the run's folder `hub`.

    steps: after which the adapter was taken; None for the end. Raises NotPushed, and OSError or ConfigError where files of the run cannot
    be read, or none written.
    """
    with _only_here(run):
        fill_folder(run / "hub", run, adapter, job, hub, steps)
        message = "LoRA after the last step" if steps is None else f"LoRA after {steps} steps"
        return push_folder(run / "hub", hub, message, patience)


class _Waiting(NamedTuple):
    adapter: Path
    steps: int | None


@dataclass
class Pushes:
    """Pushes a run's adapters one at a time in a thread; `note` gets a line on each, and nothing of it ever fails the run."""

    job: Job
    hub: Hub
    note: Callable[[str], None]
    patience: Patience = Patience()
    _waiting: SimpleQueue[_Waiting] = field(default_factory=SimpleQueue)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        # A daemon: a run that is stopped does not wait for a push, whose process ends with this one.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def show(self, record: dict[str, Any]) -> None:
        """Takes what training/driver.py's run_training reports."""
        if "checkpoint" in record and self.hub.push == "checkpoints":
            steps = record["checkpoint"]
            self._waiting.put(_Waiting(Path(self.job.run.folder) / f"checkpoints/step_{steps:06d}", steps))

    def finish(self, adapter: Path) -> None:
        """Pushes the final adapter; returns when it is pushed or given up."""
        self._waiting.put(_Waiting(adapter, None))
        self._thread.join()

    def _work(self) -> None:
        while True:
            newest = self._waiting.get()
            while not self._waiting.empty():
                newest = self._waiting.get()
            self._push(newest)
            if newest.steps is None:
                return

    def _push(self, newest: _Waiting) -> None:
        run = Path(self.job.run.folder)
        try:
            url = push_adapter(run, newest.adapter, self.job, self.hub, newest.steps, self.patience)
        except (NotPushed, OSError, ConfigError) as error:
            if newest.steps is None or newest.adapter.exists():  # else it was pruned meanwhile, and a newer one waits
                self.note(f"not pushed: {error}; python -m ray_s2v.push {run} {self.hub.repo_id} pushes it")
        else:
            self.note(f"pushed to {url}")


def _attempt(upload: Upload, limit_s: float) -> Answer:
    """One attempt in a process of its own, which is ended at the limit."""
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray_s2v.reporting.upload", json.dumps(asdict(upload))],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env=environment,
        )
        assert process.stdin is not None  # held open for as long as this process lives
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return Answer(reason=f"no end after {limit_s:.0f} s")
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
        output.seek(0)
        errors.seek(0)
        if process.returncode == 0:
            answer = Answer(**json.loads(output.read()))
        else:
            answer = Answer(reason=(errors.read().strip().splitlines() or [f"exit code {process.returncode}"])[-1])
    token = os.environ[TOKEN].strip()
    return Answer(answer.url, answer.reason.replace(token, f"<{TOKEN}>"), answer.is_lasting)


@contextmanager
def _only_here(run: Path) -> Iterator[None]:
    """Waits until no other process pushes from this run."""
    with (run / ".hub.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
