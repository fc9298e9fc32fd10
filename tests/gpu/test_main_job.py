"""The demo's job with its worker and its encoders on one GPU: NCCL, bf16, checkpoint, resume."""

import subprocess
import sys

import pytest
import torch

from tests.cluster.conftest import JOB, ROOT, demo_files, places, records  # noqa: F401 fixtures

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"), pytest.mark.timeout(900)]


def run(module: str, *overrides: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"ray_s2v.{module}", str(JOB), *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_trains_streaming_and_from_a_store_that_it_filled(places, tmp_path):  # noqa: F811
    settings = [
        *places, "model.base_precision=bf16", "training.workers=1", "training.worker_gpus=0.5", "encoders.vae.gpus=0.1",
        "encoders.speech.gpus=0.1", "encoders.text.gpus=0.1", "checkpoint.every=2", "training.steps=6", f"data.store={tmp_path / 'store'}",
    ]  # fmt: skip
    for stage in (2, 3):
        run("train", *settings, f"zero.stage={stage}", f"run.folder={tmp_path / f'z{stage}'}", "data.features=stream")
    run("encode", *settings, f"run.folder={tmp_path / 'encode'}")
    run("train", *settings, f"run.folder={tmp_path / 'stored'}", "data.features=store")
    two, three, stored = (records(tmp_path / name) for name in ("z2", "z3", "stored"))
    for other in (three, stored):
        assert [r["clip_ids"] for r in two] == [r["clip_ids"] for r in other]
        assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in other], rel=2e-3)
    assert two[-1]["memory_gib"] > 0
