"""The demo's job with its worker and its encoders on one GPU: NCCL, bf16, checkpoint, resume."""

import subprocess
import sys

import pytest
import torch

from tests.cluster.conftest import JOB, ROOT, demo_files, places, records  # noqa: F401 fixtures

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"), pytest.mark.timeout(400)]


def test_trains_and_resumes_on_a_gpu(places, tmp_path):  # noqa: F811
    settings = [
        *places, f"run.folder={tmp_path / 'run'}", "model.dtype=bf16", "training.workers=1", "training.worker_gpus=0.5",
        "encoders.vae.gpus=0.1", "encoders.speech.gpus=0.1", "encoders.text.gpus=0.1", "checkpoint.every=2", "training.steps=6",
    ]  # fmt: skip
    for stage in (2, 3):
        done = subprocess.run(
            [sys.executable, "-m", "ray_s2v.train", str(JOB), *settings, f"zero.stage={stage}", f"run.folder={tmp_path / f'z{stage}'}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    two, three = (records(tmp_path / f"z{stage}") for stage in (2, 3))
    assert [r["clip_ids"] for r in two] == [r["clip_ids"] for r in three]
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in three], rel=2e-3)
    assert two[-1]["memory_gib"] > 0
