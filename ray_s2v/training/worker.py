"""One training worker under Ray Train: the network, its engine and its share of the data, put together for the loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from ray_s2v.data.held_out import shared_out
from ray_s2v.data.share import with_features
from ray_s2v.data.stream import worker_rows
from ray_s2v.model.condition import collated
from ray_s2v.ranks import everyone
from ray_s2v.schema import Batch, ConfigError
from ray_s2v.training.arrangement import largest_bucket
from ray_s2v.training.checkpoint import load_state
from ray_s2v.training.engine import Engine
from ray_s2v.training.hang import Watch
from ray_s2v.training.held_out import Sample, evaluating, held_out_loss, with_other_sounds
from ray_s2v.training.lack_of_memory import lack_told
from ray_s2v.training.loop import StepRecord, train
from ray_s2v.training.network import Checkpoint, job_lora, network_for_training
from ray_s2v.training.preemption import Notices
from ray_s2v.training.prefetch import prefetched
from ray_s2v.training.progress import Assignment, load_progress
from ray_s2v.training.saving import Saving

PREFETCH = 2  # rows that are brought to the worker's machine, and batches made of them, while it computes


class Filming(Protocol):
    """Videos of what is learnt that the workers make themselves."""

    def prepare(self, device: torch.device) -> None: ...

    def due(self, steps_done: int) -> bool: ...

    def make(
        self,
        network: Any,
        steps_done: int,
        device: torch.device,
        send: Callable[[dict[str, Any]], object],
        averaged: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, Any] | None:
        """A collective; what came of it, on the first worker. averaged: a block in which the network has the average of its weights."""


def work(assignment: Assignment, send: Callable[[dict[str, Any]], object], filming: Filming | None = None) -> None:
    """One worker's run. `send` gets each step's record, the held-out losses, what checkpoints and what videos are there, from the first
    worker.

    Raises UserError and RunStopped where trying again would only stop there again; one worker's end the run for all.
    """
    who = f"worker {dist.get_rank()} of {dist.get_world_size()}"
    with Watch(assignment.job.training.hang_timeout_s, who, lambda text: send({"note": text})) as watch:
        _work(assignment, send, filming, watch)


def _work(assignment: Assignment, send: Callable[[dict[str, Any]], object], filming: Filming | None, watch: Watch) -> None:
    job = assignment.job
    device = ray.train.torch.get_device()
    chosen = [assignment.resume_from() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(chosen)  # machines may see a shared folder's news at different times
    checkpoint = chosen[0]
    first_step = load_progress(checkpoint).step if checkpoint else 0

    is_first, workers = dist.get_rank() == 0, dist.get_world_size()

    def note(text: str) -> None:
        if is_first:
            send({"note": text})

    if job.training.workers.is_elastic:
        note(f"{workers} of {job.training.workers} workers train from step {first_step} on")

    # Encoders start and make the first rows while the network is loaded.
    tables = prefetched(_tables(), PREFETCH)
    if filming:
        with lack_told(f"encoding the scenes of validation, worker {dist.get_rank()}", device):
            filming.prepare(device)
    config_of_lora = job_lora(job)
    with lack_told(f"before step {first_step}, worker {dist.get_rank()}", device):
        model = network_for_training(job, config_of_lora, Checkpoint(job.model.path), device, largest_bucket(assignment.plan, job), note)
        engine = Engine(model, job, device, load_state(checkpoint) if checkpoint else None, first_step)

    folder = Path(job.run.folder)
    saving = Saving(assignment, config_of_lora, send) if is_first else None
    log_step = saving.open_lines(folder / "steps.jsonl") if saving else None
    log_held_out = saving.open_lines(folder / "held_out.jsonl") if saving else None
    settings = job.held_out
    watch.at("before the first step")
    samples = _held_out(assignment, watch.patient(tables))
    notices = Notices()
    engine.deepspeed.module.register_forward_pre_hook(lambda *_: watch.beat())

    def evaluate(steps_done: int) -> None:
        if not samples:
            return
        watch.at(f"in the held-out loss after {steps_done} steps")
        found = held_out_loss(engine, samples, settings.levels)
        if log_held_out:
            line = {"step": steps_done, **asdict(found)}
            log_held_out(line)
            send({"held_out": line})

    def save(steps_done: int) -> None:
        watch.at(f"in the checkpoint after {steps_done} steps")
        if saving:
            saving.wait()  # before memory is taken for another
        state = engine.state()
        if saving:
            saving.write(steps_done, state)

    def between(steps_done: int) -> None:
        watch.at(f"after {steps_done} steps")
        is_last = steps_done == assignment.num_steps
        if saving:
            saving.look()
        # Before the checkpoint, so that a run that goes on from there has nothing to make up for.
        if is_last or steps_done % settings.every == 0:
            evaluate(steps_done)
        if news := notices.news():
            note(f"{news}: a checkpoint of step {steps_done} first")
        if news or is_last or steps_done % job.checkpoint.every == 0:
            save(steps_done)
        if news and saving:
            saving.wait()  # the node may go before the next step ends
        if filming and filming.due(steps_done):
            watch.at(f"in the videos after {steps_done} steps")
            with evaluating(engine.deepspeed):
                line = filming.make(engine.deepspeed, steps_done, device, send, engine.averaged)
            if line:
                send({"validation": line})

    def report(record: StepRecord) -> None:
        if log_step:
            line = asdict(record)
            log_step(line)
            send(line)

    with saving or nullcontext():
        if not checkpoint or checkpoint.parent != assignment.checkpoints:
            with lack_told(f"the held-out loss before step {first_step}, worker {dist.get_rank()}", device):
                evaluate(first_step)
        steps = range(first_step, assignment.num_steps)
        batches = watch.patient(prefetched(_batches(assignment, tables, steps, device), PREFETCH))
        train(engine, batches, job.training, steps, assignment.num_steps, report, between, watch.at)


def _tables() -> Iterator[pa.Table]:
    """This worker's rows of the dataset, which begin to be made when the first is asked for."""
    return iter(ray.train.get_dataset_shard("train").iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=PREFETCH))


def _held_out(assignment: Assignment, tables: Iterator[pa.Table]) -> list[Sample]:
    """This worker's held-out clips, whose rows come first. Raises ConfigError, on all workers alike, where an encoder did not load."""
    workers = dist.get_world_size()
    num_rows = len(shared_out(assignment.held_out, workers))
    first = itertools.islice(tables, num_rows // workers)
    rows = list(worker_rows(first, range(1), num_rows, dist.get_rank(), workers))
    if refusals := sorted({refusal for share in everyone([row["refusal"] for row in rows if "refusal" in row]) for refusal in share}):
        raise ConfigError("; ".join(refusals))
    return with_other_sounds([collated([row], torch.device("cpu")) for row in rows])


def _batches(assignment: Assignment, tables: Iterator[pa.Table], steps: range, device: torch.device) -> Iterator[Batch]:
    """This worker's micro-batches, in the order of the plan. Raises ConfigError where an encoder could not be loaded."""
    rows = worker_rows(tables, steps, assignment.plan.slots, dist.get_rank(), dist.get_world_size())
    for _, of_step in itertools.groupby(with_features(rows), key=lambda row: row["step"]):
        while batch := list(itertools.islice(of_step, assignment.job.training.batch_size)):
            if refusals := [row["refusal"] for row in batch if "refusal" in row]:
                raise ConfigError(refusals[0])
            yield collated(batch, device)
