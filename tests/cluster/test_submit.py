"""`ray job submit` against a head of its own on loopback."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import SHORT, records, wait_for_step
from tests.cluster.faults import assert_same_history, assert_went_on, found, kill
from tests.cluster.heads import DRIVER, Head, free_port, head

pytestmark = pytest.mark.timeout(700)


@pytest.fixture(scope="module")
def there() -> Iterator[Head]:
    with head("--num-cpus=2", port=free_port()) as there:
        yield there


def ended(submitted: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and all that was said."""
    said = submitted.communicate(timeout=300)[0]
    return submitted.returncode, said


def test_the_demo_runs_as_a_submitted_job(there, places, tmp_path):
    run = tmp_path / "run"
    code, said = ended(there.submit_job("jobs/demo.yaml", *places, f"run.folder={run}", "training.steps=3"))
    assert code == 0, said
    assert "succeeded" in said
    assert len(records(run)) == 3
    assert (run / "adapter/adapter_model.safetensors").is_file()


def test_a_wrong_job_fails_with_its_message(there):
    code, said = ended(there.submit_job("jobs/demo.yaml", "training.learning_rat=1", "zero.stage=9"))
    assert code == 1, said
    assert "Traceback" not in said
    assert "training.learning_rat: unknown; did you mean learning_rate?" in said
    assert "zero.stage: must be 0, 1, 2 or 3 (it is 9)" in said
    assert "exit code 2" in said


def test_the_same_command_goes_on_after_its_driver_was_killed(there, places, undisturbed, kept, tmp_path):
    run = tmp_path / "run"
    job = ["jobs/demo.yaml", *places, *SHORT, *kept, f"run.folder={run}"]
    submitted = there.submit_job(*job)
    wait_for_step(run, 4, submitted)
    (driver,) = found(os.getpid(), DRIVER)
    kill(driver)
    code, said = ended(submitted)
    assert code == 1, said
    assert "failed" in said

    code, said = ended(there.submit_job(*job))
    assert code == 0, said
    assert_went_on(run, 1)
    assert_same_history(run, undisturbed.folder)
