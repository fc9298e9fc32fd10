"""The held-out loss between steps of the 14B configuration on one GPU: seconds, memory, and that the steps after it are as before.

    python -m tests.gpu.held_out OUT.json [section.key=value ...]

Random weights in the arrangement that the job asks for; two first clips of noise, two levels.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ray_s2v.benchmark.measure import timed_step
from ray_s2v.benchmark.one_worker import OneWorker
from ray_s2v.benchmark.synthetic import synthetic_batch
from ray_s2v.job_file import load_job
from ray_s2v.model.fused.memory import GIB
from ray_s2v.training.held_out import held_out_loss, with_other_sounds

JOB = "jobs/wan_s2v_14b_lora.yaml"
LEVELS = 2


def main(out: Path, overrides: list[str]) -> None:
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    job = load_job(JOB, overrides)
    device = torch.device("cpu" if job.training.worker_gpus == 0 else "cuda:0")
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo" if device.type == "cpu" else "nccl", init_method=f"file://{folder}/ranks", rank=0, world_size=1)
        worker = OneWorker(0, job, device, print)
        engine = worker._engine
        results: dict[str, Any] = {"overrides": overrides, "notes": worker.notes, "torch": torch.__version__}
        clips = [synthetic_batch(worker.config, worker.bucket, 1, False, seed, torch.device("cpu")) for seed in (1, 2)]
        samples = with_other_sounds([replace(clip, slots=[slot], clip_ids=[str(slot)]) for slot, clip in enumerate(clips)])
        batch = synthetic_batch(worker.config, worker.bucket, 1, False, 0, device)

        def step(name: str) -> None:
            _timed(results, name, device, lambda: asdict(timed_step(engine, batch, 1e-9)))

        def evaluate(name: str) -> None:
            _timed(results, name, device, lambda: {"loss": held_out_loss(engine, samples, LEVELS).loss})

        evaluate("held out, before any step")
        for number in range(3):
            step(f"step {number}")
        for number in range(2):
            evaluate(f"held out, {number}")
            step(f"step after it, {number}")
        step("last step")
        out.write_text(json.dumps(results, indent=2) + "\n")
        dist.destroy_process_group()


def _timed(results: dict[str, Any], name: str, device: torch.device, work: Any) -> None:
    started = time.monotonic()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
        found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    results[name] = {"s": time.monotonic() - started, **found}
    print(name, results[name], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
