"""A run of one to two workers loses a node after a notice, and is given another: the losses of two undisturbed workers."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_s2v.training.progress import complete_checkpoints
from tests.cluster.conftest import records, wait_for_step
from tests.cluster.faults import TRAINING_WORKER, assert_same_history, found
from tests.cluster.heads import free_port, head, kill_tree
from tests.cluster.test_lost_nodes import APART, kind

pytestmark = [pytest.mark.timeout(1800), pytest.mark.long]

EVERY = 10
LONGER = ["training.steps=24", f"checkpoint.every={EVERY}", "checkpoint.keep=9"]
ELASTIC = ["training.workers={min: 1, max: 2}", "training.resize_every_s=4", "training.worker_cpus=1"]


def wait_until(holds: Callable[[], object], process: subprocess.Popen[str], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_workers_then_one_then_two(places: list[str], start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    process = start(*LONGER, f"run.folder={undisturbed}")
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said

    join = ("--num-cpus=1", kind("L40S"))
    with (
        head("--num-cpus=1", kind("L4"), port=free_port()) as there,
        there.joined(*join) as one,
        there.joined(*join) as two,
    ):
        process = there.start_job(*places, *APART, *LONGER, *ELASTIC, f"run.folder={run}")
        wait_for_step(run, 2, process)
        assert found(one.pid, TRAINING_WORKER)
        assert found(two.pid, TRAINING_WORKER)
        there.give_notice(two, seconds=60)
        wait_until(lambda: any(step % EVERY for step, _ in complete_checkpoints(run / "checkpoints")), process)
        kill_tree(two)
        done = len(records(run)) + 1  # one may have been under way
        wait_until(lambda: len(records(run)) > done, process)
        with there.joined(*join):
            said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    (noticed,) = [step for step, _ in complete_checkpoints(run / "checkpoints") if step % EVERY]
    assert "the node of worker " in said
    assert f": a checkpoint of step {noticed} first" in said
    begun = [(int(workers), int(step)) for workers, step in re.findall(r"(\d) of 1 to 2 workers train from step (\d+) on", said)]
    assert [workers for workers, _ in begun] == [2, 1, 2]
    assert begun[:2] == [(2, 0), (1, noticed)]
    assert begun[2][1] >= noticed
    assert "Traceback" not in said
    assert_same_history(run, undisturbed)
