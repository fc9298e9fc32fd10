"""Processes of a run are killed while it trains: it goes on by itself, to the losses and clips of the undisturbed run."""

import psutil
import pytest

from tests.cluster.conftest import SHORT, held_out, wait_for_step
from tests.cluster.faults import (
    DECODING_TASK,
    ENCODER,
    TRAINING_WORKER,
    assert_same_history,
    assert_went_on,
    kill,
    kill_at,
    repeated,
    wait_for,
)

pytestmark = pytest.mark.timeout(900)


def test_decoding_tasks_and_encoder_actors(start, undisturbed, tmp_path):
    """Their rows are made again by others; training does not notice."""
    run = tmp_path / "run"
    process = start(*SHORT, f"run.folder={run}")
    kill(wait_for(process.pid, DECODING_TASK, timeout_s=150)[0])
    for step, kind in ((0, "Video"), (2, "Speech"), (4, "Text")):
        kill_at(step, run, process, f"{ENCODER}{kind}")
    kill_at(5, run, process, f"{ENCODER}Video")
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    assert repeated(run) == []
    assert_same_history(run, undisturbed.folder)
    assert "Traceback" not in said


def test_training_workers(start, undisturbed, kept, tmp_path):
    """One after the other: both times all begin again at the last checkpoint."""
    run = tmp_path / "run"
    process = start(*SHORT, *kept, f"run.folder={run}")
    kill_at(4, run, process, TRAINING_WORKER)
    kill_at(7, run, process, TRAINING_WORKER, which=-1)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    assert_went_on(run, 2)
    assert_same_history(run, undisturbed.folder)
    assert said.count("workers failed at or after step") == 2
    assert "Traceback" not in said
    measured = {line["step"]: line["loss"] for line in held_out(undisturbed.folder)}
    assert {line["step"]: line["loss"] for line in held_out(run)} == pytest.approx(measured, abs=1e-5)


def test_a_worker_that_hangs(start, undisturbed, kept, tmp_path):
    """Stopped in mid-step: the other waits for it in a collective, which has no end; it is told, and both are ended and begin again."""
    run = tmp_path / "run"
    process = start(*SHORT, *kept, f"run.folder={run}", "training.hang_timeout_s=10")
    wait_for_step(run, 4, process)
    stopped = wait_for(process.pid, TRAINING_WORKER)[0]
    stopped.suspend()
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    assert said.count("has not moved for ") == 1
    assert "it hangs, or waits for one that does" in said
    assert said.count("workers failed at or after step") == 1
    assert not psutil.pid_exists(stopped.pid)
    assert_went_on(run, 1)
    assert_same_history(run, undisturbed.folder)
    assert "Traceback" not in said
