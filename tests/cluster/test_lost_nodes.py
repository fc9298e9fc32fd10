"""Raylets on this machine that stand for nodes are lost while a job trains on them: it goes on to the undisturbed run's losses."""

from pathlib import Path

import pytest

from tests.cluster.conftest import SHORT, Undisturbed, wait_for_step
from tests.cluster.faults import ENCODER, TRAINING_WORKER, assert_same_history, assert_went_on, found, kill, repeated
from tests.cluster.heads import free_port, head, kill_tree

pytestmark = [pytest.mark.timeout(1200), pytest.mark.long]

ENCODERS_ON_L4 = [f"encoders.{name}.accelerator_type=L4" for name in ("vae", "speech", "text")]
APART = [*ENCODERS_ON_L4, "training.accelerator_type=L40S"]


def kind(accelerator: str) -> str:
    return f'--resources={{"accelerator_type:{accelerator}": 1}}'


def test_node_of_encoders_and_their_blocks(places: list[str], undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Its blocks are made again by encoders on the other node; training does not begin again."""
    run = tmp_path / "run"
    with (
        head("--num-cpus=1", kind("L40S"), port=free_port()) as there,
        there.joined("--num-cpus=1", kind("L4")) as one,
        there.joined("--num-cpus=1", kind("L4")) as other,
    ):
        process = there.start_job(*places, *APART, *SHORT, f"run.folder={run}")
        wait_for_step(run, 2, process)
        kill_tree(next(node for node in (one, other) if found(node.pid, f"{ENCODER}Video")))
        said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert_same_history(run, undisturbed.folder)
    assert repeated(run) == [], said


def test_node_of_a_training_worker(places: list[str], undisturbed: Undisturbed, kept: list[str], tmp_path: Path) -> None:
    """Its raylet dies, and what is on the node with it; the worker begins again on a spare node."""
    run = tmp_path / "run"
    join = ("--num-cpus=1", kind("L40S"))
    with (
        head("--num-cpus=1", kind("L4"), port=free_port()) as there,
        there.joined(*join) as one,
        there.joined(*join) as two,
        there.joined(*join) as three,
    ):
        process = there.start_job(*places, *kept, *APART, *SHORT, f"run.folder={run}", "training.worker_cpus=1")
        wait_for_step(run, 4, process)
        lost = next(node for node in (one, two, three) if found(node.pid, TRAINING_WORKER))
        (raylet,) = [below for below in lost.children(recursive=True) if below.name() == "raylet"]
        kill(raylet)
        said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert_went_on(run, 1)
    assert_same_history(run, undisturbed.folder)


def test_head_with_its_driver(places: list[str], undisturbed: Undisturbed, kept: list[str], tmp_path: Path) -> None:
    """The run's folder is elsewhere; another head is started, and the same command given there goes on."""
    run = tmp_path / "run"
    with head("--num-cpus=2", port=free_port()) as there:
        process = there.start_job(*places, *kept, *SHORT, f"run.folder={run}")
        wait_for_step(run, 4, process)
        kill_tree(there.process)
        process.kill()
        process.wait()
    with head("--num-cpus=2", port=free_port()) as another:
        process = another.start_job(*places, *kept, *SHORT, f"run.folder={run}")
        said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert_went_on(run, 1)
    assert_same_history(run, undisturbed.folder)
