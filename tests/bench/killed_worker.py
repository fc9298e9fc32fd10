"""Seconds from the death of a training worker to the next step, what Ray needs of them told apart; as JSON.

    python -m tests.bench.killed_worker OUT.json

The demo's job with two workers, one of which is killed three times: with all features in a filled store, and with encoders beside
training. Nothing else should run on the machine.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

from ray_s2v.cluster.join import leave_cluster
from ray_s2v.config.job import Demo
from ray_s2v.demo import prepare_demo
from ray_s2v.job_file import load_job
from ray_s2v.training.driver import run_training
from ray_s2v.training.prepare import prepare
from tests.cluster.conftest import JOB, ROOT, demo_places
from tests.cluster.faults import TRAINING_WORKER, found, kill

KILL_AFTER = (5, 14, 23)  # steps
STEPS = 36
SETTINGS = [f"training.steps={STEPS}", "checkpoint.every=3", "held_out.every=36", "data.sources.0.windows_per_clip=1"]
SOURCES = {"from a store": "data.features=store", "encoded beside training": "data.features=stream"}


class Marks:
    """Notes on each worker when Ray hands it our function, and when that is about to load the network: where a run makes videos, both
    are called there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._note("entered")

    def prepare(self, device: torch.device) -> None:
        self._note("imported")

    def due(self, steps_done: int) -> bool:
        return False

    def make(self, *_: object) -> None:
        raise AssertionError("none is due")

    def _note(self, what: str) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps({"what": what, "process": os.getpid(), "at": time.time()}) + "\n")

    def seen(self, since: float, what: str) -> float:
        """When the last worker of a new group came so far."""
        lines = [line for line in map(json.loads, self.file.read_text().splitlines()) if line["at"] > since]
        workers = {line["process"] for line in lines if line["what"] == "imported"}
        return max(line["at"] for line in lines if line["what"] == what and line["process"] in workers)


class Kills:
    """Kills a worker after some of the steps, and times what follows."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.due = list(KILL_AFTER)
        self.killed_at: float | None = None
        self.noticed_at = 0.0
        self.times: list[dict[str, float]] = []

    def note(self, text: str) -> None:
        print(text, flush=True)
        if "workers failed" in text:
            self.noticed_at = time.time()

    def report(self, record: dict[str, Any]) -> None:
        if "losses" not in record:
            return
        if self.killed_at and self.noticed_at > self.killed_at:
            self._time(self.killed_at, record["step_s"])
            self.killed_at = None
        elif self.due and not self.killed_at and record["step"] >= self.due[0]:
            self.due.pop(0)
            self.killed_at = time.time()
            kill(found(os.getpid(), TRAINING_WORKER)[len(self.due) % 2])

    def _time(self, killed_at: float, step_s: float) -> None:
        moments = [killed_at, self.noticed_at, self.marks.seen(killed_at, "entered"), self.marks.seen(killed_at, "imported"), time.time()]
        spans = [end - start for start, end in pairwise(moments)]
        names = ("ray_notices", "ray_starts_workers", "our_imports", "network_and_first_step")
        self.times.append({"whole": moments[-1] - killed_at, **dict(zip(names, spans, strict=True)), "first_step": step_s})
        print({name: round(seconds, 2) for name, seconds in self.times[-1].items()}, flush=True)


def measured(folder: Path, places: list[str], setting: str) -> list[dict[str, float]]:
    """The times of three kills in one run."""
    marks = Marks(folder / f"{setting}.jsonl")
    kills = Kills(marks)
    job = load_job(str(JOB), (*places, *SETTINGS, setting, f"run.folder={folder / setting}"))
    try:
        prepared = prepare(job, print)
        Path(prepared.job.run.folder).mkdir()
        run_training(prepared, kills.report, kills.note, filming=marks)
    finally:
        leave_cluster()
    assert len(kills.times) == len(KILL_AFTER)
    return kills.times


def main(out: Path) -> None:
    os.environ["RAY_ADDRESS"] = "local"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_demo(Demo(folder=str(folder / "demo")))
        places = [*demo_places(folder / "demo"), f"data.store={folder / 'store'}"]
        encode = [sys.executable, "-m", "ray_s2v.encode", str(JOB), *places, *SETTINGS, f"run.folder={folder / 'encoded'}"]
        subprocess.run(encode, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=1200)
        times = {source: measured(folder, places, setting) for source, setting in SOURCES.items()}
    result = {"cores": os.cpu_count(), "load": psutil.getloadavg(), "kills": times}
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
