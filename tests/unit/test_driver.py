"""What the driver refuses, and does, before it asks Ray for anything."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ray_s2v.config.job import Job
from ray_s2v.data.discover import Discovery
from ray_s2v.data.features import Features
from ray_s2v.data.found import Rejected
from ray_s2v.data.plan import Plan
from ray_s2v.job_file import load_job
from ray_s2v.model.lora import lora_config
from ray_s2v.schema import RunStopped
from ray_s2v.training.checkpoint import State, save_checkpoint
from ray_s2v.training.copies import Copies
from ray_s2v.training.driver import run_training
from ray_s2v.training.prepare import Prepared
from ray_s2v.training.progress import Progress
from tests.checkpoints import checkpoint
from tests.plans import BUCKETS, job, many

STEPS = 6
REJECTED = Rejected("clips/a.mp4", "the file is empty")


def prepared(folder: Path, copy_to: Path | None = None) -> Prepared:
    settings = {"run": {"folder": str(folder)}, "checkpoint": {"copy_to": str(copy_to) if copy_to else None}}
    here = Job.model_validate(job(slots=4, steps=STEPS).model_dump() | settings)
    clips = many(8, 200, BUCKETS[3])
    plan = Plan.of(here, clips)
    features = Features(str(folder / "store"), streams=True, vae="vae", speech="speech", text="text", dtype="fp16")
    discovery = Discovery(clips, [], [REJECTED], {"clips": 1}, 0, 0, "", 0.0)
    return Prepared(here, discovery, plan, [], features, STEPS, plan.fingerprint(), 0, None)


def refuse_to_speak(told: object) -> None:
    raise AssertionError(told)


def test_a_run_at_its_end_needs_only_its_adapter(tmp_path: Path) -> None:
    """As a kill between the last checkpoint and the adapter leaves it."""
    given = prepared(tmp_path / "run")
    (tmp_path / "run").mkdir()
    adapter = {"base_model.model.blocks.0.attn1.to_q.lora_A.weight": torch.arange(6.0).view(2, 3)}
    config = lora_config(2, 2, 0.0, ["to_q"], "all")
    save_checkpoint(tmp_path / "run/checkpoints", Progress(STEPS, given.fingerprint), State(adapter, adapter), config, "job", keep=1)
    folder = run_training(given, refuse_to_speak, refuse_to_speak)
    assert folder == tmp_path / "run/adapter"
    found = load_file(folder / "adapter_model.safetensors")
    assert found.keys() == adapter.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in adapter.items())
    assert load_job(str(tmp_path / "run/job.yaml")) == given.job
    assert (tmp_path / "run/rejected.csv").read_text() == "path,reason\nclips/a.mp4,the file is empty\n"


def test_a_run_at_its_end_makes_up_for_its_last_copy(tmp_path: Path) -> None:
    given = prepared(tmp_path / "run", tmp_path / "copies")
    (tmp_path / "run").mkdir()
    checkpoint(tmp_path / "run/checkpoints", STEPS)
    for _ in range(2):
        run_training(given, refuse_to_speak, refuse_to_speak)
        assert Copies(str(tmp_path / "copies")).newest() == f"step_{STEPS:06d}"
    (tmp_path / "copies").rename(tmp_path / "elsewhere")
    (tmp_path / "copies").write_text("")
    with pytest.raises(RunStopped, match="or its copy, could not be written: "):
        run_training(given, refuse_to_speak, refuse_to_speak)


def test_a_folder_that_takes_no_files_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "run/job.yaml").mkdir(parents=True)
    with pytest.raises(RunStopped, match=r"run/job\.yaml could not be written: .*Is a directory"):
        run_training(prepared(tmp_path / "run"), refuse_to_speak, refuse_to_speak)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["job.yaml"]
