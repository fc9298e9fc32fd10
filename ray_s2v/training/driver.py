"""Ray Train: the workers that train, the dataset that feeds them, and the driver that watches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue

from ray_s2v.config import Job, dump_job
from ray_s2v.data.discover import rejected_csv
from ray_s2v.data.plan import Plan
from ray_s2v.data.stream import plan_dataset, worker_rows
from ray_s2v.model.condition import collated
from ray_s2v.model.lora import lora_config, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Batch, RunStopped
from ray_s2v.training.checkpoint import Progress, complete_checkpoints, load_progress, load_state, save_checkpoint, save_final_adapter
from ray_s2v.training.engine import DTYPES, Engine
from ray_s2v.training.loop import NonFiniteError, StepRecord, train
from ray_s2v.training.prepare import Prepared


@dataclass(frozen=True)
class Assignment:
    """What a worker, and the factory of its dataset, must know."""

    job: Job
    plan: Plan
    num_steps: int
    start_from: Path | None  # where the run began, if not at step 0

    @property
    def checkpoints(self) -> Path:
        return Path(self.job.run.folder) / "checkpoints"

    def resume_from(self) -> Path | None:
        """The newest checkpoint of this run, also after a restart of the workers; else where the run began."""
        there = complete_checkpoints(self.checkpoints)
        return there[-1][1] if there else self.start_from

    def first_step(self) -> int:
        checkpoint = self.resume_from()
        return load_progress(checkpoint).step if checkpoint else 0


def run_training(prepared: Prepared, report: Callable[[dict[str, Any]], None]) -> Path:
    """Trains to the end and returns the folder of the final adapter. `report` gets each step's record on the driver.

    Raises RunStopped, KeyboardInterrupt.
    """
    job = prepared.job
    folder = Path(job.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(dump_job(job))
    (folder / "rejected.csv").write_text(rejected_csv(prepared.rejected))
    assignment = Assignment(job, prepared.plan, prepared.num_steps, prepared.start_from)
    if assignment.first_step() < prepared.num_steps:
        _fit(assignment, report)
    return folder / "adapter"


def _fit(assignment: Assignment, report: Callable[[dict[str, Any]], None]) -> None:
    job = assignment.job
    records = Queue()
    trainer = TorchTrainer(
        partial(_work, records=records),
        train_loop_config={"assignment": assignment},
        datasets={"train": partial(_dataset, assignment)},
        dataset_config=ray.train.DataConfig(execution_options=ray.data.ExecutionOptions(preserve_order=True), enable_shard_locality=False),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.training.workers,
            use_gpu=job.training.worker_gpus > 0,
            resources_per_worker={"CPU": job.training.worker_cpus, "GPU": job.training.worker_gpus},
        ),
        torch_config=TorchConfig(backend="nccl" if job.training.worker_gpus else "gloo"),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=job.run.folder,
            failure_config=ray.train.FailureConfig(max_failures=job.training.max_failures),
        ),
    )
    # In a thread of its own, where Ray Train leaves Ctrl-C to us: its handler ends the process with code 1 and no word.
    outcome: Future[ray.train.Result] = Future()
    threading.Thread(target=lambda: _settle(outcome, trainer.fit), daemon=True).start()
    while not outcome.done():
        _pass_on(records, report, wait_s=0.5)
    _pass_on(records, report, wait_s=0)
    try:
        stopped = outcome.result().return_value
    except ray.train.TrainingFailedError as error:
        raise RunStopped(_explained(error, assignment)) from error
    if stopped:
        raise RunStopped(stopped)


def _settle(outcome: Future[Any], run: Callable[[], Any]) -> None:
    try:
        outcome.set_result(run())
    except BaseException as error:
        outcome.set_exception(error)


def _pass_on(records: Queue, report: Callable[[dict[str, Any]], None], wait_s: float) -> None:
    """Hands the workers' records to `report` until none comes for `wait_s`."""
    try:
        while True:
            report(records.get(block=wait_s > 0, timeout=wait_s))
    except Empty:
        return


def _explained(error: Exception, assignment: Assignment) -> str:
    return f"{error}\nThe run stands at step {assignment.first_step()} of {assignment.num_steps}; the same command goes on from there"


def _dataset(assignment: Assignment) -> ray.data.Dataset:
    """The rest of the run's rows. Ray Train's controller calls this at every start of the workers, so a restart resumes exactly."""
    rows = list(assignment.plan.rows(assignment.first_step(), assignment.num_steps))
    return plan_dataset(rows, assignment.job)


def _work(config: dict[str, Any], records: Queue) -> str | None:
    """One worker's run. Returns why it stopped if trying again would only stop there again."""
    assignment: Assignment = config["assignment"]
    job = assignment.job
    device = ray.train.torch.get_device()
    checkpoint = assignment.resume_from()
    first_step = load_progress(checkpoint).step if checkpoint else 0

    settings = job.lora
    config_of_lora = lora_config(settings.rank, settings.alpha or settings.rank, settings.dropout, settings.targets, settings.layers)
    network = WanS2VTransformer3DModel.from_pretrained(job.model.path, torch_dtype=DTYPES[job.model.dtype], device=device)
    if job.model.checkpointing == "full":
        network.enable_gradient_checkpointing()
    model = with_lora(network, config_of_lora, job.run.seed).train()
    engine = Engine(model, job, device, load_state(checkpoint) if checkpoint else None, first_step)

    is_first = dist.get_rank() == 0

    def save(steps_done: int) -> None:
        state = engine.state()
        if is_first:
            progress = Progress(steps_done, assignment.plan.slots, assignment.plan.fingerprint())
            save_checkpoint(assignment.checkpoints, progress, state, config_of_lora, dump_job(job), job.checkpoint.keep)
            if steps_done == assignment.num_steps:
                save_final_adapter(Path(job.run.folder) / "adapter", state.adapter, config_of_lora)

    def report(record: StepRecord) -> None:
        if is_first:
            line = asdict(record)
            with open(Path(job.run.folder) / "steps.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            records.actor.put_nowait.remote(line)

    try:
        train(
            engine,
            _batches(assignment, first_step, device),
            job.training,
            range(first_step, assignment.num_steps),
            assignment.num_steps,
            job.checkpoint.every,
            save,
            report,
        )
    except NonFiniteError as error:
        return str(error)
    return None


def _batches(assignment: Assignment, first_step: int, device: torch.device) -> Iterator[Batch]:
    """This worker's micro-batches, in the order of the plan."""
    shard = ray.train.get_dataset_shard("train").iter_rows()
    rows = worker_rows(shard, first_step, assignment.plan.slots, dist.get_rank(), dist.get_world_size())
    size = assignment.job.training.batch_size
    while batch := [row for _, row in zip(range(size), rows, strict=False)]:
        yield collated(batch, device)
