"""Runs of the real loop and engine in gloo processes, on a tiny network and batches made from (step, slot)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import PeftModel
from torch import Tensor

from ray_s2v.config.job import Job
from ray_s2v.data.share import slots_with_filling
from ray_s2v.model.lora import lora_config, with_lora
from ray_s2v.schema import Batch, ConfigError
from tests.tiny import TINY, tiny_network

SLOTS = 4
STEPS = 6
LORA = lora_config(4, 8, 0.0, ["to_q", "to_k", "to_v", "to_out.0"], "all")


@dataclass(frozen=True)
class Case:
    """One run: from the checkpoint in `start` if given, through `steps`, leaving checkpoints in `folder`."""

    stage: int
    folder: Path
    first_step: int = 0
    end_step: int = STEPS
    start: Path | None = None
    poison_step: int | None = None
    poison: str = ""
    lora_dropout: float = 0.0
    every: int = 3  # steps from one checkpoint to the next
    routes: tuple[tuple[float, int, int], ...] = ()  # of TREAD: what skips, first and last block
    dtype: torch.dtype = torch.float32  # of the frozen weights, but for those that are float32 always


def tiny_job(stage: int, workers: int, routes: tuple[tuple[float, int, int], ...] = ()) -> Job:
    keys = ("selection_ratio", "start_layer_idx", "end_layer_idx")
    nowhere = {"path": "-"}
    return Job.model_validate(
        {
            "run": {"folder": "-"},
            "data": {"sources": [nowhere]},
            "encoders": {"vae": nowhere, "speech": nowhere, "text": {"path": "-", "tokenizer": "-"}},
            "model": {"path": "-", "base_precision": "fp32"},
            "training": {
                "steps": STEPS, "global_batch": SLOTS, "workers": workers, "learning_rate": 0.01, "warmup_steps": 2, "clip_grad_norm": 0.05,
                "ema": {"decay": 0.4, "every": 3},
            },
            "zero": {"stage": stage},
            "tread": {"routes": [dict(zip(keys, route, strict=True)) for route in routes]},
        }
    )  # fmt: skip


def adapted_network(lora_dropout: float = 0.0, checkpointing: bool = False, dtype: torch.dtype = torch.float32) -> PeftModel:
    """The tiny network with an adapter that is no longer at PEFT's start, where one factor is zero and the other has no gradient."""
    network = tiny_network()
    exact = set(network._keep_in_fp32_modules)
    for name, p in network.named_parameters():
        p.data = p.data.to(torch.float32 if exact & set(name.split(".")) else dtype)
    if checkpointing:
        network.enable_gradient_checkpointing()
    config = lora_config(LORA.r, LORA.lora_alpha, lora_dropout, ["to_q", "to_k", "to_v", "to_out.0"], "all")
    model = with_lora(network, config, seed=1).train()
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def tiny_batch(step: int, slots: list[int]) -> Batch:
    """Every other step is a continuation, every third has poses. A slot's tensors depend on step and slot alone."""

    def draw(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(1000 * step + slot)) for slot in slots])

    return Batch(
        step=step,
        slots=slots,
        clip_ids=[f"clip{step}.{slot}" for slot in slots],
        errors=["" for _ in slots],
        latents=draw(16, 2, 8, 8),
        reference=draw(16, 1, 8, 8),
        motion=draw(16, 19, 8, 8) if step % 2 else None,
        pose=draw(16, 2, 8, 8).flip(-2) if step % 3 == 2 else None,
        audio=draw(TINY["num_weighted_avg_layers"], 8, 8),
        text=[draw(5, 16)[i] for i in range(len(slots))],
        noise=2 * draw(16, 2, 8, 8).flip(-1),
        noise_level=torch.tensor([(step * SLOTS + slot + 0.5) / (STEPS * SLOTS) for slot in slots]),
        seed=1000 * step + slots[0],
    )


def _batches(case: Case, worker: int, workers: int) -> Iterator[Batch]:
    for step in range(case.first_step, case.end_step):
        for slot in range(worker, slots_with_filling(SLOTS, workers), workers):
            if slot >= SLOTS:
                yield replace(tiny_batch(step, [worker]), slots=[slot], clip_ids=[""], errors=["only fills up"])
                continue
            batch = tiny_batch(step, [slot])
            if step == case.poison_step and slot == SLOTS - 1 and case.poison == "loss":
                batch.noise[0, 0, 0, 0, 0] = float("inf")
            if step == case.poison_step and case.poison == "refused" and worker == workers - 1:
                raise ConfigError("an encoder cannot be loaded")
            if step == case.poison_step and case.poison == "unreadable":
                batch.errors = ["gone" for _ in batch.errors]
            if step == case.poison_step and case.poison == "one unreadable" and slot == SLOTS - 1:
                batch.errors = ["gone"]
            yield batch


def _run(case: Case, worker: int, workers: int) -> dict[str, object]:
    from ray_s2v.model.fused.functions import AS_WRITTEN
    from ray_s2v.model.fused.fuse import FastForm, fuse
    from ray_s2v.training import engine as engine_module
    from ray_s2v.training.checkpoint import load_state, save_checkpoint
    from ray_s2v.training.engine import Engine
    from ray_s2v.training.loop import StepRecord, UnusableStep, train
    from ray_s2v.training.progress import Progress

    engine_module.PERSISTENT_BELOW = 0  # or ZeRO-3 would leave every tensor of this network whole
    job = tiny_job(case.stage, workers, case.routes)
    model = adapted_network(case.lora_dropout, checkpointing=True, dtype=case.dtype)
    if not case.lora_dropout:  # which the plain form alone knows
        fuse(model.base_model.model, FastForm(AS_WRITTEN, "cpu"), torch.device("cpu"))
    state = load_state(case.start) if case.start else None
    engine = Engine(model, job, torch.device("cpu"), state, case.first_step)
    if case.poison == "gradient" and worker == workers - 1:
        first = next(iter(engine.adapter.values()))
        calls = []

        def poisoned(gradient: Tensor) -> Tensor:
            calls.append(1)
            return gradient / 0 if len(calls) > case.poison_step * SLOTS // workers else gradient

        first._backward_hooks.clear()
        first.register_hook(poisoned)
        first.register_hook(engine._watch)

    records: list[StepRecord] = []

    def save(steps_done: int) -> None:
        if steps_done % case.every and steps_done != STEPS:
            return
        gathered = engine.state()
        if worker == 0:
            save_checkpoint(case.folder, Progress(steps_done, "plan"), gathered, LORA, "job", keep=10)

    error = ""
    try:
        train(engine, _batches(case, worker, workers), job.training, range(case.first_step, case.end_step), STEPS, records.append, save)
    except UnusableStep as stop:
        error = str(stop)
    with engine.averaged():
        averaged = engine.adapter_tensors()
    return {
        "averaged": averaged,
        "losses": [record.loss for record in records],
        "norms": [record.gradient_norm for record in records],
        "clips": [record.clip_ids for record in records],
        "adapter": engine.adapter_tensors(),
        "error": error,
    }


def _worker(worker: int, workers: int, port: int, cases: list[Case], out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(worker), WORLD_SIZE=str(workers), LOCAL_RANK=str(worker))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = [_run(case, worker, workers) for case in cases]
    torch.save(results, out / f"worker{worker}.pt")
    dist.destroy_process_group()


def run_cases(cases: list[Case], workers: int, out: Path) -> list[list[dict]]:
    """Results [worker][case] of running the cases one after the other in `workers` processes."""
    out.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(workers, port, cases, out), nprocs=workers)
    return [torch.load(out / f"worker{worker}.pt", weights_only=True) for worker in range(workers)]
