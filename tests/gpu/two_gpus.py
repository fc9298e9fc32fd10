"""The same six steps on one GPU and on two, ZeRO-2 and ZeRO-3: losses and gradient norms, as JSON.

    python -m tests.gpu.two_gpus OUT.json [--cpu]

Six blocks of the 14B's width with random weights in bf16, the fast form, the real engine and loop, two clips a step: on one GPU one
after the other, on two at once. --cpu: the tiny network in gloo processes, to try the script.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_s2v.benchmark.synthetic import synthetic_batch
from ray_s2v.config.job import Job
from ray_s2v.model.fused.functions import AS_WRITTEN
from ray_s2v.model.fused.fuse import FastForm, fuse
from ray_s2v.model.lora import lora_config, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Batch, Bucket
from ray_s2v.training.engine import Engine
from ray_s2v.training.loop import StepRecord, train
from tests.spawn.zero_runs import tiny_job
from tests.tiny import TINY

STEPS, SLOTS = 6, 2
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def job_of(stage: int, workers: int) -> Job:
    job = tiny_job(stage, workers).model_dump()
    job["training"] |= {"steps": STEPS, "global_batch": SLOTS, "learning_rate": 1e-3, "clip_grad_norm": 1.0}
    return Job.model_validate(job)


def network(device: torch.device) -> WanS2VTransformer3DModel:
    """The same weights on every worker."""
    torch.manual_seed(0)
    if device.type == "cpu":
        return WanS2VTransformer3DModel(**TINY)
    with torch.device("meta"):
        made = WanS2VTransformer3DModel(num_layers=6, audio_inject_layers=(0, 2, 4))
    exact = set(made._keep_in_fp32_modules)
    state = {}
    for name, p in made.state_dict().items():
        dtype = torch.float32 if exact & set(name.split(".")) else torch.bfloat16
        state[name] = 0.02 * torch.randn(p.shape, device=device, dtype=dtype)
    made.load_state_dict(state, assign=True)
    return made


def batches(config: object, device: torch.device, worker: int, workers: int) -> Iterator[Batch]:
    """Noise of each step and slot; every other step is a continuation."""
    bucket = Bucket(64, 64, 8) if device.type == "cpu" else Bucket(416, 240, 40)
    for step in range(STEPS):
        for slot in range(worker, SLOTS, workers):
            batch = synthetic_batch(config, bucket, 1, bool(step % 2), 100 * step + slot, device)
            batch.step, batch.slots, batch.clip_ids = step, [slot], [f"{step}.{slot}"]
            yield batch


def run(worker: int, workers: int, port: int, stage: int, on_cpu: bool, out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(worker), WORLD_SIZE=str(workers), LOCAL_RANK=str(worker))
    device = torch.device("cpu") if on_cpu else torch.device("cuda", worker)
    if not on_cpu:
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if on_cpu else "nccl")
    base = network(device)
    model = with_lora(base, lora_config(16, 16, 0.0, TARGETS, "all"), seed=0, device=device).train()
    fuse(base, FastForm(AS_WRITTEN, "cpu" if on_cpu else "cudnn"), device)
    engine = Engine(model, job_of(stage, workers), device, None, 0)
    records: list[StepRecord] = []
    train(
        engine, batches(base.config, device, worker, workers), job_of(stage, workers).training,
        range(STEPS), STEPS, records.append, lambda _: None,
    )  # fmt: skip
    if worker == 0:
        out.write_text(json.dumps({"losses": [r.losses for r in records], "norms": [r.gradient_norm for r in records]}))
    dist.destroy_process_group()


def main(out: Path, on_cpu: bool) -> None:
    results: dict[str, object] = {"card": "cpu" if on_cpu else torch.cuda.get_device_name(), "torch": torch.__version__}
    runs = {}
    for name, workers, stage in (("one GPU, ZeRO-2", 1, 2), ("two GPUs, ZeRO-2", 2, 2), ("two GPUs, ZeRO-3", 2, 3)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        part = out.with_suffix(".part")
        mp.spawn(run, args=(workers, port, stage, on_cpu, part), nprocs=workers)
        runs[name] = json.loads(part.read_text())
        part.unlink()
        results["runs"] = runs
        out.write_text(json.dumps(results, indent=2) + "\n")
    one = torch.tensor(runs["one GPU, ZeRO-2"]["losses"])
    for name, result in runs.items():
        print(name, [[round(loss, 5) for loss in step] for step in result["losses"]])
        print("   largest difference to one GPU:", (torch.tensor(result["losses"]) - one).abs().max().item())


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--cpu" in sys.argv)
