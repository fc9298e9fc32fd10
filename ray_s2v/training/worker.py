"""One training worker under Ray Train: the network, its engine and its share of the data, put together for the loop."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from ray_s2v.data.stream import worker_rows
from ray_s2v.job_file import dump_job
from ray_s2v.model.condition import collated
from ray_s2v.schema import Batch, ConfigError
from ray_s2v.training.arrangement import largest_bucket
from ray_s2v.training.checkpoint import load_state, save_checkpoint, save_final_adapter
from ray_s2v.training.engine import Engine
from ray_s2v.training.lack_of_memory import lack_told
from ray_s2v.training.loop import StepRecord, train
from ray_s2v.training.network import Checkpoint, job_lora, network_for_training
from ray_s2v.training.prefetch import prefetched
from ray_s2v.training.progress import Assignment, Progress, load_progress

PREFETCH = 2  # rows that are brought to the worker's machine, and batches made of them, while it computes


def work(assignment: Assignment, send: Callable[[dict[str, Any]], object]) -> None:
    """One worker's run. `send` gets each step's record, from the first worker.

    Raises UserError and RunStopped where trying again would only stop there again; one worker's end the run for all.
    """
    job = assignment.job
    device = ray.train.torch.get_device()
    chosen = [assignment.resume_from()]
    dist.broadcast_object_list(chosen)  # machines may see a shared folder's news at different times
    checkpoint = chosen[0]
    first_step = load_progress(checkpoint).step if checkpoint else 0

    is_first = dist.get_rank() == 0

    def note(text: str) -> None:
        if is_first:
            send({"note": text})

    config_of_lora = job_lora(job)
    with lack_told(f"before step {first_step}, worker {dist.get_rank()}", device):
        model = network_for_training(job, Checkpoint(job.model.path), device, largest_bucket(assignment.plan, job), note)
        engine = Engine(model, job, device, load_state(checkpoint) if checkpoint else None, first_step)

    steps = range(first_step, assignment.num_steps)
    steps_file = Path(job.run.folder) / "steps.jsonl"
    if is_first and steps_file.exists():  # a kill may have left half a line
        whole = steps_file.read_bytes().rpartition(b"\n")
        os.truncate(steps_file, len(whole[0] + whole[1]))

    def save(steps_done: int) -> None:
        state = engine.state()
        if is_first:
            progress = Progress(steps_done, assignment.fingerprint)
            save_checkpoint(assignment.checkpoints, progress, state, config_of_lora, dump_job(job), job.checkpoint.keep)
            if steps_done == assignment.num_steps:
                save_final_adapter(Path(job.run.folder) / "adapter", state.adapter, config_of_lora)

    def report(record: StepRecord) -> None:
        if is_first:
            line = asdict(record)
            with steps_file.open("a") as file:
                file.write(json.dumps(line) + "\n")
            send(line)

    train(
        engine,
        prefetched(_batches(assignment, steps, device), PREFETCH),
        job.training,
        steps,
        assignment.num_steps,
        job.checkpoint.every,
        save,
        report,
    )


def _batches(assignment: Assignment, steps: range, device: torch.device) -> Iterator[Batch]:
    """This worker's micro-batches, in the order of the plan. Raises ConfigError where an encoder could not be loaded."""
    shard = ray.train.get_dataset_shard("train").iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=PREFETCH)
    rows = worker_rows(shard, steps, assignment.plan.slots, dist.get_rank(), dist.get_world_size())
    while batch := list(itertools.islice(rows, assignment.job.training.batch_size)):
        if refusals := [row["refusal"] for row in batch if "refusal" in row]:
            raise ConfigError(refusals[0])
        yield collated(batch, device)
