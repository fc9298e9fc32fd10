"""Checkpoints beside training, on disks that fill up, cannot be written to, or go away; nothing here is made up but the disk's size."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_s2v.schema import RunStopped
from ray_s2v.training import saving
from ray_s2v.training.checkpoint import State
from ray_s2v.training.json_lines import open_lines
from ray_s2v.training.progress import Assignment
from ray_s2v.training.saving import Saving
from tests.assignments import assignment
from tests.checkpoints import LORA, NAME, assert_of_its_step, state, steps_in

STEPS = 6
SIZE = 1 << 20  # bytes of the small disk
FULL = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Takes what room there is."""
    stuff = disk / "stuff"
    stuff.write_bytes(bytes(shutil.disk_usage(disk).free))
    return stuff


class Told(list[dict[str, Any]]):
    """What was sent."""

    def notes(self) -> list[str]:
        return [record["note"] for record in self if "note" in record]

    def steps(self) -> list[int]:
        return [record["checkpoint"] for record in self if "checkpoint" in record]


def begun(folder: Path, told: Told, **settings: Any) -> tuple[Assignment, Saving]:
    given = assignment(folder, STEPS, settings)
    return given, Saving(given, LORA, told.append)


def save_on_a_full_disk(writer: Saving, disk: Path, step: int) -> None:
    """The checkpoint of a step after that of step 1, which still fits."""
    with writer:
        writer.write(1, state(1))
        writer.wait()
        fill(disk)
        writer.write(step, state(step))
        while writer.writing:  # as training does after each step
            writer.look()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write, told = threading.Event(), Told()
    save = saving.save_checkpoint
    monkeypatch.setattr(saving, "save_checkpoint", lambda *given: may_write.wait(30) and save(*given))
    given, writer = begun(tmp_path, told)
    with writer:
        writer.write(1, state(1))
        writer.look()
        assert told == []
        assert steps_in(given.checkpoints) == []
        may_write.set()
        writer.write(2, state(2))
        assert told.steps()[0] == 1, "one at a time"
    assert told == [{"checkpoint": 1}, {"checkpoint": 2}], "the end waits for it"
    for step in (1, 2):
        assert_of_its_step(given.checkpoints / f"step_{step:06d}")


def test_the_last_one_comes_with_the_adapter(tmp_path: Path) -> None:
    told = Told()
    with begun(tmp_path, told)[1] as writer:
        writer.write(STEPS, state(STEPS))
    assert told == [{"checkpoint": STEPS}]
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()


def test_full_disk_stops_the_run_and_the_last_good_one_stays(disk: Path) -> None:
    told = Told()
    given, writer = begun(disk / "run", told)
    with pytest.raises(RunStopped) as stopped:
        save_on_a_full_disk(writer, disk, 2)
    assert str(stopped.value).startswith("the checkpoint of step 2 could not be written: ")
    assert FULL in str(stopped.value)
    assert str(stopped.value).endswith(" (checkpoint.on_failure: continue goes on without)")
    assert told == [{"checkpoint": 1}]
    assert os.listdir(given.checkpoints) == ["step_000001"], "nothing half-written is left"
    assert_of_its_step(given.checkpoints / "step_000001")


def test_on_a_full_disk_the_run_goes_on_where_it_may(disk: Path) -> None:
    told = Told()
    given, writer = begun(disk / "run", told, on_failure="continue", keep=2)
    with writer:
        writer.write(1, state(1))
        writer.wait()
        stuff = fill(disk)
        for step in (2, 3):
            writer.write(step, state(step))
        writer.wait()
        assert os.listdir(given.checkpoints) == ["step_000001"]
        stuff.unlink()
        writer.write(4, state(4))
    assert told.steps() == [1, 4]
    assert [note.partition(" could not be written: ")[0] for note in told.notes()] == [f"the checkpoint of step {step}" for step in (2, 3)]
    assert all(FULL in note and note.endswith("Training goes on") for note in told.notes())
    assert steps_in(given.checkpoints) == [1, 4]
    for step in (1, 4):
        assert_of_its_step(given.checkpoints / f"step_{step:06d}")


def test_disk_that_fills_up_in_the_middle_of_the_weights(disk: Path) -> None:
    """Where safetensors writes, which has errors of its own."""
    told = Told()
    large = State({NAME: torch.ones(SIZE // 8)}, {NAME: torch.ones(SIZE // 4)})
    given, writer = begun(disk / "run", told, on_failure="continue")
    with writer:
        writer.write(1, state(1))
        writer.write(2, large)
    assert told.steps() == [1]
    assert len(told.notes()) == 1
    assert FULL in told.notes()[0]
    assert os.listdir(given.checkpoints) == ["step_000001"]


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_the_last_one_that_cannot_be_written_stops_the_run(disk: Path, on_failure: str) -> None:
    told = Told()
    given, writer = begun(disk / "run", told, on_failure=on_failure)
    with pytest.raises(RunStopped, match=f"^the checkpoint of step {STEPS} could not be written: .*{FULL}"):
        save_on_a_full_disk(writer, disk, STEPS)
    assert told == [{"checkpoint": 1}]
    assert steps_in(given.checkpoints) == [1]


def test_what_ends_the_run_anyway_is_not_hidden(disk: Path) -> None:
    told = Told()
    _, writer = begun(disk / "run", told)

    def train() -> None:
        with writer:
            fill(disk)
            writer.write(1, state(1))
            raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        train()
    assert len(told) == 1
    assert FULL in told.notes()[0]


def test_folder_that_becomes_read_only(disk: Path) -> None:
    told = Told()
    given, writer = begun(disk / "run", told, on_failure="continue")
    add = writer.open_lines(disk / "run/steps.jsonl")
    with writer:
        writer.write(1, state(1))
        writer.wait()
        add({"step": 0})
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        writer.write(2, state(2))
        writer.wait()
        for step in (1, 2):
            add({"step": step})
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        writer.write(3, state(3))
        add({"step": 3})
    assert told.steps() == [1, 3]
    assert ["Read-only file system" in note for note in told.notes()] == [True, True]
    assert [json.loads(line)["step"] for line in (disk / "run/steps.jsonl").read_text().splitlines()] == [0, 1, 2, 3]
    assert steps_in(given.checkpoints) == [1, 3]


def test_folder_whose_place_a_file_has_taken(tmp_path: Path) -> None:
    told = Told()
    given, writer = begun(tmp_path / "run", told, on_failure="continue")
    (tmp_path / "run").mkdir()
    given.checkpoints.write_text("")
    with writer:
        writer.write(1, state(1))
    assert told.steps() == []
    assert "Not a directory" in told.notes()[0]


def test_lines_wait_while_the_disk_is_full(disk: Path) -> None:
    """Also the half of a line that fitted is not there twice."""
    path, lost = disk / "steps.jsonl", []
    add = open_lines(path, lost.append)
    line = {"step": 0, "text": "x" * 3000}
    add(line)
    stuff = fill(disk)
    for step in range(1, 6):
        add(line | {"step": step})
    assert len(lost) == 1, "said once"
    assert FULL in str(lost[0])
    stuff.unlink()
    add(line | {"step": 6})
    assert [json.loads(text) for text in path.read_text().splitlines()] == [line | {"step": step} for step in range(7)]
    fill(disk)
    for step in (7, 8):
        add(line | {"step": step})
    assert len(lost) == 2, "another time, another word"


def test_lines_stop_a_run_that_is_to_stop(disk: Path) -> None:
    _, writer = begun(disk, Told())
    add = writer.open_lines(disk / "steps.jsonl")
    fill(disk)
    with pytest.raises(RunStopped, match=f"^steps.jsonl could not be written: .*{FULL}"):
        add({"text": "x" * 5000})
