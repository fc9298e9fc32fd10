"""Ray Train from the driver: starting the workers and the dataset that feeds them, and passing on what they report."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.data
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue

from ray_s2v.data.discover import rejected_csv
from ray_s2v.data.stream import plan_dataset
from ray_s2v.job_file import dump_job
from ray_s2v.schema import ConfigError, RunStopped
from ray_s2v.training.progress import Assignment

if TYPE_CHECKING:
    from ray_s2v.training.prepare import Prepared


def run_training(prepared: Prepared, report: Callable[[dict[str, Any]], None]) -> Path:
    """Trains to the end and returns the folder of the final adapter. `report` gets each step's record on the driver.

    Raises RunStopped, KeyboardInterrupt, and ConfigError if another run is using the folder.
    """
    job = prepared.job
    folder = Path(job.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")  # given up when this process ends, however it ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"run.folder: {folder} is in use by another run") from error
    (folder / "job.yaml").write_text(dump_job(job), encoding="utf-8")
    (folder / "rejected.csv").write_text(rejected_csv(prepared.rejected), encoding="utf-8")
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
    except BaseException as error:  # noqa: BLE001 handed to the main thread, which raises it
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
    # Imported here because the controller imports this module too, and needs neither the network nor DeepSpeed.
    from ray_s2v.training.worker import work

    return work(config["assignment"], lambda record: records.actor.put_nowait.remote(record))
