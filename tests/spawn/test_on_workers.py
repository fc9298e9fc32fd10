"""Videos made by the training workers: the same whoever makes them, and training goes on as if there had been none."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_s2v.config.job import Job
from ray_s2v.demo.encoder_weights import save_vae
from tests.spawn.zero_runs import SLOTS, adapted_network, tiny_batch, tiny_job
from tests.tiny import TINY

pytestmark = pytest.mark.timeout(400)
SCENES = {"long": 12, "short": 5, "middle": 8}  # frames of their sound
STEPS_DONE = 2


def job(stage: int, workers: int, folder: Path, vae: Path) -> Job:
    scenes = [{"name": name, "picture": "-", "speech": "-", "prompt": "-"} for name in (*SCENES, "gone")]
    settings = tiny_job(stage, workers).model_dump() | {
        "run": {"folder": str(folder)},
        "checkpoint": {"every": STEPS_DONE},
        "validation": {"every": STEPS_DONE, "gpus": 0, "place": "workers", "weights": "both", "scenes": scenes},
        "sampling": {"size": "64x64", "num_frames": 8, "steps": 2},
    }
    settings["encoders"]["vae"]["path"] = str(vae)
    return Job.model_validate(settings)


def _worker(worker: int, workers: int, port: int, given: Job, films: bool, out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(worker), WORLD_SIZE=str(workers), LOCAL_RANK=str(worker))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    from ray_s2v.model.fused.functions import AS_WRITTEN
    from ray_s2v.model.fused.fuse import FastForm, fuse
    from ray_s2v.training import engine as engine_module
    from ray_s2v.training.held_out import evaluating
    from ray_s2v.training.loop import StepRecord, train
    from ray_s2v.validation.on_workers import OnWorkers
    from ray_s2v.validation.sampler import Conditions
    from ray_s2v.validation.video import Shot

    engine_module.PERSISTENT_BELOW = 0
    cpu = torch.device("cpu")
    model = adapted_network(checkpointing=True)
    fuse(model.base_model.model, FastForm(AS_WRITTEN, "cpu"), cpu)
    engine = engine_module.Engine(model, given, cpu, None, 0)
    filming = OnWorkers(given, STEPS_DONE)
    draw = torch.Generator().manual_seed(5)
    for name, frames in SCENES.items():
        shown = Conditions(
            picture=torch.zeros(64, 64, 3),
            reference=torch.randn(1, 16, 1, 8, 8, generator=draw),
            text=torch.randn(5, TINY["text_dim"], generator=draw),
            negative=torch.randn(3, TINY["text_dim"], generator=draw),
            speech=torch.randn(TINY["num_weighted_avg_layers"], TINY["audio_dim"], frames, generator=draw),
        )
        filming.shots[name] = Shot(shown, np.zeros((1, (frames - 3) * 1000), np.float32), 16_000)
    filming.unreadable = {"gone": "no sound"}
    records: list[StepRecord] = []
    lines: list[Any] = []

    def between(steps_done: int) -> None:
        if films and filming.due(steps_done):
            with evaluating(engine.deepspeed):
                lines.append(filming.make(engine.deepspeed, steps_done, cpu, lambda _: None, engine.averaged))

    batches = (tiny_batch(step, [slot]) for step in range(STEPS_DONE + 1) for slot in range(worker, SLOTS, workers))
    train(engine, batches, given.training, range(STEPS_DONE + 1), STEPS_DONE + 1, records.append, between)
    (out / f"worker{worker}.json").write_text(json.dumps({"losses": [record.loss for record in records], "lines": lines}))
    dist.destroy_process_group()


def run(stage: int, workers: int, folder: Path, vae: Path, films: bool = True) -> list[dict[str, Any]]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(workers, port, job(stage, workers, folder, vae), films, folder), nprocs=workers)
    return [json.loads((folder / f"worker{worker}.json").read_text()) for worker in range(workers)]


def pictures(folder: Path, name: str) -> np.ndarray:
    with av.open(str(folder / f"validation/step_{STEPS_DONE:06d}/{name}.mp4")) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_videos_are_the_same_whoever_makes_them(tmp_path: Path) -> None:
    save_vae(tmp_path / "vae")
    undisturbed = run(2, 1, tmp_path / "none", tmp_path / "vae", films=False)[0]["losses"]
    ways = {"one": (2, 1), "two": (2, 2), "sharded": (3, 2)}
    for name, (stage, workers) in ways.items():
        first, *others = run(stage, workers, tmp_path / name, tmp_path / "vae")
        assert first["losses"] == pytest.approx(undisturbed, abs=1e-5)
        videos = {scene + weights: f"validation/step_000002/{scene}{weights}.mp4" for weights in ("", "_ema") for scene in SCENES}
        assert first["lines"] == [{"step": STEPS_DONE, "videos": videos, "failed": {"gone": "no sound", "gone_ema": "no sound"}}]
        assert all(other["lines"] == [None] for other in others)
        (line,) = (tmp_path / name / "validation.jsonl").read_text().splitlines()
        assert json.loads(line) == first["lines"][0]
    assert (
        run(2, 1, tmp_path / "again", tmp_path / "vae")[0]["losses"] == run(2, 1, tmp_path / "bare", tmp_path / "vae", False)[0]["losses"]
    )
    for scene, frames in SCENES.items():
        one = pictures(tmp_path / "one", scene)
        assert len(one) == frames - 3
        assert np.ptp(one) > 20, "there is something to see"
        for other in ("again", "two", "sharded"):
            assert abs(pictures(tmp_path / other, scene).astype(float) - one).mean() < 0.5, (scene, other)
            averages = [pictures(tmp_path / folder, f"{scene}_ema").astype(float) for folder in ("one", other)]
            assert abs(averages[0] - averages[1]).mean() < 0.5, (scene, other)
            assert abs(averages[0] - one).mean() > 1
