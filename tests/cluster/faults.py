"""The fault kit: what of a run can die, found below a process by its title; how it dies; and what must be the same afterwards."""

import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.conftest import records, wait_for_step

# Titles that Ray gives to its processes.
TRAINING_WORKER = "ray::RayTrainWorker"
ENCODER = "ray::MapWorker(MapBatches(Encode"
DECODING_TASK = "ray::MapBatches(_fetched)"
TRACE_S = 120.0


def found(below: int, title: str) -> list[psutil.Process]:
    """Processes that the process has started, and these in turn, whose title begins so; the oldest first."""
    try:
        children = psutil.Process(below).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return sorted((child for child in children if _title(child).startswith(title)), key=lambda child: (child.create_time(), child.pid))


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def wait_for(below: int, title: str, timeout_s: float = TRACE_S) -> list[psutil.Process]:
    """The processes, once there is one."""
    deadline = time.monotonic() + timeout_s
    while not (there := found(below, title)):
        assert time.monotonic() < deadline, f"no {title} was there in {timeout_s} s"
        time.sleep(0.02)
    return there


def kill(process: psutil.Process) -> None:
    """As the kernel kills: at once, without a word. Returns when it is gone."""
    process.send_signal(signal.SIGKILL)
    process.wait(30)


def kill_at(step: int, run: Path, driver: subprocess.Popen[str], title: str, which: int = 0) -> None:
    """Once the run has done a step, kills one of the driver's processes of that title."""
    wait_for_step(run, step, driver)
    kill(wait_for(driver.pid, title)[which])


def surviving(run: Path) -> dict[int, dict[str, Any]]:
    """What came of each step in the end: of a step done again, the last line."""
    return {record["step"]: record for record in records(run)}


def lives(run: Path) -> list[range]:
    """The steps from one beginning of the workers to the next, a range for each."""
    found: list[range] = []
    for record in records(run):
        if found and record["step"] == found[-1].stop:
            found[-1] = range(found[-1].start, record["step"] + 1)
        else:
            found.append(range(record["step"], record["step"] + 1))
    return found


def assert_went_on(run: Path, times: int, every: int = 3) -> None:
    """From a checkpoint each time: the newest, or where that was being written, the one before. Where a life ended with a checkpoint, the
    steps do not tell where the next began.
    """
    first, *others = lives(run)
    assert first.start == 0
    assert len(others) <= times
    for before, after in pairwise((first, *others)):
        newest = before.stop // every * every
        assert after.start in (newest, newest - every)


def repeated(run: Path) -> list[int]:
    """Steps that were done more than once, in order, one entry for each time too many."""
    steps = [record["step"] for record in records(run)]
    return sorted(step for step in set(steps) for _ in range(steps.count(step) - 1))


def assert_same_history(run: Path, undisturbed: Path) -> None:
    """Every step is there, with the undisturbed run's clips and, of each, its loss: the loss follows from the window and the noise, so that
    each planned (clip, window) has gone into one optimizer step and no other, from the same weights.

    Steps done twice were the same both times.
    """
    expected = surviving(undisturbed)
    assert surviving(run).keys() == expected.keys()
    for record in records(run):
        assert record["clip_ids"] == expected[record["step"]]["clip_ids"], record["step"]
        assert record["losses"] == pytest.approx(expected[record["step"]]["losses"], abs=1e-5), record["step"]
        assert record["unreadable"] == {}, record["step"]
