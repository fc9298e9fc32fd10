"""`ray job submit` against a head of its own on loopback."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import ROOT, records
from tests.cluster.heads import ENVIRONMENT, free_port, head

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """Address of a running head's dashboard."""
    with head("--num-cpus=2", port=free_port()) as there:
        yield there.dashboard


def submit(dashboard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--", "python", "-m", "ray_s2v.train", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_demo_runs_as_a_submitted_job(dashboard, places, tmp_path):
    run = tmp_path / "run"
    done = submit(dashboard, "jobs/demo.yaml", *places, f"run.folder={run}", "training.steps=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert len(records(run)) == 3
    assert (run / "adapter/adapter_model.safetensors").is_file()


def test_a_wrong_job_fails_with_its_message(dashboard):
    failed = submit(dashboard, "jobs/demo.yaml", "training.learning_rat=1", "zero.stage=9")
    said = failed.stdout + failed.stderr
    assert failed.returncode == 1, said
    assert "Traceback" not in said
    assert "training.learning_rat: unknown; did you mean learning_rate?" in said
    assert "zero.stage: must be 0, 1, 2 or 3 (it is 9)" in said
    assert "exit code 2" in said
