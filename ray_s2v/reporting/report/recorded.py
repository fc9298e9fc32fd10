"""What a run's folder tells about the run, however far it has come."""

from __future__ import annotations

import csv
import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ray_s2v.config.job import Job
from ray_s2v.job_file import A_JOB, job_of
from ray_s2v.schema import ConfigError
from ray_s2v.settings_file import read_settings

State = Literal["finished", "running", "stopped", "not begun"]
Line = dict[str, Any]


@dataclass(frozen=True)
class Resumption:
    """The run went on after `step` steps; `again` steps, done before, were done again or are still to be."""

    step: int
    again: int


@dataclass(frozen=True)
class Recorded:
    """A run as its folder shows it; what is not there yet is empty."""

    folder: Path
    settings: dict[Any, Any]  # as job.yaml has them
    job: Job | None  # None where there is no job.yaml, or one of another version of ray_s2v
    steps: list[Line]  # of steps.jsonl, each step once, in order
    held_out: list[Line]  # of held_out.jsonl, likewise, none after the last step done
    validations: list[Line]  # of validation.jsonl, each step once, in order
    rejected: list[tuple[str, str]]  # path and reason
    resumptions: list[Resumption]  # those that did steps again; others leave no trace
    spent_s: float  # in steps, also in those that a kill undid
    state: State

    @property
    def done(self) -> int:
        """Steps."""
        return self.steps[-1]["step"] + 1 if self.steps else 0

    @property
    def num_steps(self) -> int | None:
        """Of the whole run; None where the job gives epochs."""
        return self.job.training.steps if self.job else None


def read_run(folder: Path) -> Recorded:
    """All that there is. Raises ConfigError if the folder is not one of a run, or a file in it is damaged."""
    if not any((folder / name).is_file() for name in ("job.yaml", "steps.jsonl", "held_out.jsonl")):
        raise ConfigError(f"{folder}: no run's folder: there is neither job.yaml nor steps.jsonl in it")
    settings = read_settings(str(folder / "job.yaml"), A_JOB) if (folder / "job.yaml").exists() else {}
    job = job_of(settings)[0] if settings else None
    written_of_held_out = _lines(folder / "held_out.jsonl")  # before the steps: a running run adds to both
    written = _lines(folder / "steps.jsonl")
    steps, resumptions = _lasting(written)
    done = steps[-1]["step"] + 1 if steps else 0
    return Recorded(
        folder=folder,
        settings=settings,
        job=job,
        steps=steps,
        held_out=[line for line in _lasting(written_of_held_out)[0] if line["step"] <= done],
        validations=sorted({line["step"]: line for line in _lines(folder / "validation.jsonl")}.values(), key=lambda line: line["step"]),
        rejected=_rejected(folder / "rejected.csv"),
        resumptions=resumptions,
        spent_s=sum(line["step_s"] for line in written),
        state=_state(folder, done, job.training.steps if job else None),
    )


def _lines(path: Path) -> list[Line]:
    """Of a file of JSON lines; a last one without its end, as it stands while it is written, is not one yet."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    lines = []
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: damaged: {error}") from error
    return lines


def _lasting(lines: Sequence[Line]) -> tuple[list[Line], list[Resumption]]:
    """The lines that still hold: one of a step takes back those before it of the same and of later steps."""
    lasting: list[Line] = []
    resumptions = []
    for line in lines:
        before = len(lasting)
        while lasting and lasting[-1]["step"] >= line["step"]:
            lasting.pop()
        if len(lasting) < before:
            resumptions.append(Resumption(line["step"], before - len(lasting)))
        lasting.append(line)
    return lasting, resumptions


def _rejected(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(row[0], row[1]) for row in islice(csv.reader(file), 1, None)]


def _state(folder: Path, done: int, num_steps: int | None) -> State:
    has_adapter = (folder / "adapter" / "adapter_model.safetensors").exists()
    if has_adapter and num_steps is not None and done >= num_steps:
        return "finished"
    if _is_locked(folder / ".lock"):
        return "running"
    if has_adapter and num_steps is None:
        return "finished"
    return "stopped" if done else "not begun"


def _is_locked(path: Path) -> bool:
    """Whether a driver holds the run's folder."""
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
