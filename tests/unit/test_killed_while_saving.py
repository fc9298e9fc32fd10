"""A process that saves checkpoints is killed at fifty moments: each time the newest is whole, and the run goes on from it."""

import os
import random
import select
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_s2v.training.checkpoint import PARTIAL, load_state
from ray_s2v.training.contents import CONTENTS
from ray_s2v.training.copies import Copies
from ray_s2v.training.progress import Assignment, load_progress, newest_whole
from ray_s2v.training.saving import Saving
from tests.assignments import assignment
from tests.checkpoints import LORA, assert_of_its_step, state

KILLS = 50
NUMBERS = 20_000  # of each tensor: 160 kB of moments, so that writing takes a while of every save
WITHIN_S = 0.1  # of a life's first checkpoint: several of them take as long
STEPS = 1_000_000


def train(given: Assignment, told: int) -> None:
    """Goes on from the newest checkpoint, or the beginning, and never ends; writes each step that is saved to `told`."""
    before = given.resume_from()
    step = load_progress(before).step if before else 0
    if before:
        loaded = load_state(before)
        assert all((loaded.adapter[name] == tensor).all() for name, tensor in state(step, NUMBERS).adapter.items())

    def send(record: dict[str, Any]) -> None:
        os.write(told, b"%d\n" % record["checkpoint"])

    with Saving(given, LORA, send) as saving:
        while True:
            step += 1
            saving.write(step, state(step, NUMBERS))


def killed_after(wait_s: float, work: Callable[[int], None]) -> list[int]:
    """Runs `work` in a child that is killed `wait_s` after the first step that it tells; the steps told."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            work(writing)
        finally:
            os._exit(1)
    os.close(writing)
    told = b""
    try:
        assert select.select([reading], [], [], 30)[0], "nothing is saved"
        told = os.read(reading, 1 << 16)
        select.select([], [], [], wait_s)
    finally:
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    while more := os.read(reading, 1 << 16):
        told += more
    os.close(reading)
    return [int(line) for line in told.split()]


def found_in(folder: Path, copies: Path) -> str:
    """What the kill interrupted, by what it left."""
    left = {path.name.removeprefix(PARTIAL).partition("step")[0]: path for path in folder.glob(f"{PARTIAL}*")}
    if "old-" in left:
        return "pruning"
    if "" in left:
        return "publishing" if (left[""] / CONTENTS).exists() else "writing"
    return "copying" if any(not (path / CONTENTS).exists() for path in copies.glob("step_*")) else "between"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: a killed process leaves there what it leaves on a disk, and nobody waits for one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_fifty_kills(memory: Path) -> None:
    copies = Copies(str(memory / "copies"))
    given = assignment(memory / "run", STEPS, {"keep": 2, "copy_to": copies.place})
    random_waits = random.Random(0)
    interrupted: Counter[str] = Counter()
    last = last_copy = 0
    for _ in range(KILLS):
        told = killed_after(random_waits.uniform(0, WITHIN_S), lambda writing: train(given, writing))
        assert told == list(range(last + 1, told[-1] + 1)), "it went on from where the one before was killed"
        notes: list[str] = []
        newest = newest_whole(given.checkpoints, notes.append)
        assert newest
        assert notes == [], "no checkpoint is half-written"
        assert_of_its_step(newest, NUMBERS)
        last = load_progress(newest).step
        assert last in (told[-1], told[-1] + 1), "nothing that was told is lost"
        interrupted[found_in(given.checkpoints, memory / "copies")] += 1

        elsewhere = memory / "elsewhere"
        copied = copies.fetch_newest(elsewhere, lambda text: None)
        assert copied
        assert_of_its_step(copied, NUMBERS)
        assert last_copy <= load_progress(copied).step <= last
        last_copy = load_progress(copied).step
    assert interrupted["writing"] >= KILLS // 10, f"the kills met little: {interrupted}"
    assert interrupted["copying"] >= KILLS // 10, f"the kills met little: {interrupted}"
