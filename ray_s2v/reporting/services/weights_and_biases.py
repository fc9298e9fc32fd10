"""Curves and videos to Weights & Biases, through a process of our own.

wandb waits for its server when a run begins, when it ends, and when the interpreter ends, and its files are whole only after the second.
In a process of its own it can be waited for as long as there is time, and then ended, and its import costs the run nothing.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_s2v.config.tracking import WeightsAndBiases
from ray_s2v.reporting.delivery import NotDelivered, Service
from ray_s2v.reporting.messages import Event, Message, Video

LOG, RUN_ID = "ray_s2v.log", "run_id"  # files in wandb's folder of the run
INIT_S = 8  # that the server gets to answer, before the run is recorded offline
FINISH_S = 10  # that it gets to take the rest in the end
START_S = INIT_S + 60  # that the process gets to begin: importing wandb from a network disk takes long
CLOSE_S = FINISH_S + 5


class Tracker(Service):
    """One run at W&B, the same one each time that a run is resumed: its id is kept in the run's folder.

    Where the server does not answer, the run is recorded offline, and nothing is lost.
    """

    def __init__(self, settings: WeightsAndBiases, folder: Path, config: dict[str, Any], say: Callable[[str], None]) -> None:
        super().__init__("W&B")
        self.settings, self.folder, self.config, self.say = settings, folder / "wandb", config, say
        self.is_offline = settings.mode == "offline"
        self.process: subprocess.Popen[str] | None = None
        self.recorded = ""  # wandb's folder of this session
        self.failure = ""  # why there is no process
        self.is_whole = self.is_abandoned = False

    def deliver(self, message: Message) -> None:
        assert not isinstance(message, Event)
        process = self._started()
        if isinstance(message, Video):
            if not message.path.is_file():
                raise NotDelivered(f"{message.path} is not there")
            self._tell(process, {"step": message.step, "video": message.chart, "path": str(message.path)})
        else:
            self._tell(process, {"step": message.step, "figures": message.values})

    def close(self, failed: bool) -> None:
        if self.process is None:  # a run that came to nothing, perhaps because another has its folder, and its id
            return
        process = self._started()
        self._tell(process, {"end": int(failed)})
        answer = self._answer(process, CLOSE_S)
        self._end(process)
        self.is_whole = "finished" in answer
        if not self.is_whole:
            raise NotDelivered(answer["failed"])

    def abandon(self) -> None:
        self.is_abandoned = True
        if self.process:
            self._end(self.process)

    def remark(self) -> str:
        if not self.recorded or (self.is_whole and not self.is_offline):
            return ""
        option = "" if self.is_offline else "--include-online "
        return f"`wandb sync {option}{self.recorded}` uploads what is recorded there"

    def _started(self) -> subprocess.Popen[str]:
        """The process that records, which the first message starts. Raises NotDelivered where there is none."""
        if self.failure:
            raise NotDelivered(self.failure)
        if self.process is None:
            answer = self._start()
            if "failed" in answer and not self.is_offline and not self.is_abandoned:
                self.say(f"W&B: {answer['failed']}; the run is recorded offline")
                self.is_offline = True
                answer = self._start()
            if "failed" in answer:
                self.failure = answer["failed"]
                raise NotDelivered(self.failure)
            self.recorded = answer["folder"]
            if answer["url"]:
                self.say(f"W&B: {answer['url']}")
        assert self.process
        return self.process

    def _start(self) -> dict[str, Any]:
        """What a new process answers when it has begun the run, or has failed to."""
        if self.process:
            self._end(self.process)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Without error reports to wandb's makers, which are sent elsewhere than to the server.
        environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            # In a session of its own Ctrl-C does not reach it.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ray_s2v.reporting.services.wandb_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
        begin = {
            "project": self.settings.project,
            "entity": self.settings.entity,
            "name": self.settings.name or self.folder.parent.name,
            "tags": self.settings.tags,
            "mode": "offline" if self.is_offline else "online",
            "id": run_id(self.folder / RUN_ID),
            "dir": str(self.folder.parent),
            "config": self.config,
        }
        self._tell(self.process, {"begin": begin, "init_s": INIT_S, "finish_s": FINISH_S, "watched": os.getpid()})
        return self._answer(self.process, START_S)

    def _tell(self, process: subprocess.Popen[str], line: dict[str, Any]) -> None:
        assert process.stdin
        try:
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
        except OSError as error:  # a broken pipe
            raise NotDelivered(f"its process ended; {self.folder / LOG} may say why") from error

    def _answer(self, process: subprocess.Popen[str], within_s: float) -> dict[str, Any]:
        assert process.stdout
        there, _, _ = select.select([process.stdout], [], [], within_s)
        line = process.stdout.readline() if there else ""
        return json.loads(line) if line else {"failed": f"its process gave no answer; {self.folder / LOG} may say why"}

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Ends the process, and with it wandb's own, which watches for that."""
        process.kill()
        process.wait()


def run_id(path: Path) -> str:
    """The id in the file, which is made where there is none."""
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return path.read_text(encoding="utf-8")
