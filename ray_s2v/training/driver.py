"""Ray Train from the driver: starting the workers and the dataset that feeds them, and passing on what they report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ray.data
import ray.train
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from ray_s2v.cluster.capacity import for_training, for_validation
from ray_s2v.cluster.waiting import Waiting
from ray_s2v.data.discover import rejected_csv
from ray_s2v.data.store import write_whole
from ray_s2v.data.stream import plan_dataset
from ray_s2v.job_file import dump_job
from ray_s2v.schema import RunStopped, UserError
from ray_s2v.training.amd_devices import TorchConfigForAmd
from ray_s2v.training.elastic import DataForWorkers, for_any_number, scaling
from ray_s2v.training.failures import first_cause
from ray_s2v.training.interrupt import until_done
from ray_s2v.training.progress import Assignment
from ray_s2v.training.relay import open_relay, pass_on

if TYPE_CHECKING:
    from ray_s2v.training.prepare import Prepared
    from ray_s2v.training.worker import Filming


class Beside(Protocol):
    """What is done with a run's checkpoints beside training."""

    def hear(self, record: dict[str, Any]) -> None:
        """Takes what `report` of run_training gets."""

    def look(self) -> None:
        """Is called again and again while the run goes on."""

    def finish(self) -> None:
        """Comes to an end when training has. Raises KeyboardInterrupt."""


def run_training(
    prepared: Prepared,
    report: Callable[[dict[str, Any]], None],
    note: Callable[[str], None],
    beside: Beside | None = None,
    filming: Filming | None = None,
) -> Path:
    """Trains to the end and returns the folder of the final adapter. On the driver, `report` gets each step's record, and after it,
    where there is one, {"held_out": its HeldOut and step}, {"checkpoint": its step} and, of videos by the workers (`filming`),
    {"validation": what came of them}; `note` what else a person should know.

    The caller is alone in the folder (run_folder.py). Raises RunStopped, KeyboardInterrupt, and ConfigError if a worker cannot do as the
    job says.
    """
    job = prepared.job
    folder = Path(job.run.folder)
    _write(folder, {"job.yaml": dump_job(job), "rejected.csv": rejected_csv(prepared.discovery.rejected)})
    assignment = Assignment(
        job,
        prepared.plan,
        prepared.held_out,
        prepared.fingerprint,
        prepared.features,
        prepared.num_steps,
        prepared.start_from,
    )
    if assignment.first_step() < prepared.num_steps:
        _fit(assignment, report, note, beside, filming)
    elif last := assignment.resume_from():
        from ray_s2v.training.saving import make_up

        make_up(job, last)
    if beside:
        beside.finish()
    return folder / "adapter"


def _write(folder: Path, files: dict[str, str]) -> None:
    """Raises RunStopped where the disk does not take them; what was there is there still."""
    for name, text in files.items():
        try:
            write_whole(str(folder / name), text.encode())
        except OSError as error:
            raise RunStopped(f"{folder / name} could not be written: {error}") from error


def _fit(
    assignment: Assignment,
    report: Callable[[dict[str, Any]], None],
    note: Callable[[str], None],
    beside: Beside | None,
    filming: Filming | None,
) -> None:
    job = assignment.job
    records = open_relay()
    asked = for_training(job, assignment.features.streams)
    waiting = Waiting([one for one in asked if one not in for_validation(job)], note)  # which asks for its room when it is due

    def show(record: dict[str, Any]) -> None:
        if "note" in record:
            note(record["note"])
        else:
            waiting.only(asked[:1])  # the encoders end before the workers do, and their nodes may go
            report(record)
            if beside:
                beside.hear(record)

    def meanwhile() -> None:
        pass_on(records, show, wait_s=0.5)
        waiting.look()
        if beside:
            beside.look()

    trainer = TorchTrainer(
        partial(_work, records=records, filming=filming),
        train_loop_config={"assignment": assignment},
        datasets={"train": for_any_number(partial(_dataset, assignment))},
        dataset_config=DataForWorkers(),
        scaling_config=scaling(job.training),
        torch_config=TorchConfigForAmd(backend="nccl" if job.training.worker_gpus else "gloo"),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=job.run.folder,
            failure_config=ray.train.FailureConfig(max_failures=job.training.max_failures),
            callbacks=[_Failures(assignment, records)],
        ),
    )
    try:
        # Outside the main thread Ray Train leaves Ctrl-C to us: its handler ends the process with code 1 and no word.
        until_done(trainer.fit, meanwhile)
    except ray.train.TrainingFailedError as error:
        raise _explained(error, assignment) from error
    finally:
        pass_on(records, show, wait_s=0)


class _Failures(ray.train.UserCallback):
    """Says in Ray Train's controller why workers failed and where they start again, or ends the run."""

    def __init__(self, assignment: Assignment, records: Queue) -> None:
        self.assignment, self.records = assignment, records

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, UserError | RunStopped):
                raise error  # thereby a failure of the controller, which Ray Train does not try again; no worker is waited for
        failures = "; ".join(f"worker {rank}: {first_cause(error)}" for rank, error in sorted(worker_exceptions.items()))
        last = self.assignment.first_step(lambda text: self.records.put({"note": text}))
        self.records.put({"note": f"workers failed at or after step {last}, the last checkpoint: {failures}"})


def _explained(error: ray.train.TrainingFailedError, assignment: Assignment) -> UserError | RunStopped:
    """What ended the run, or every worker's last failure in a line; the whole of it is in Ray's logs."""
    kept = "No checkpoint was made yet"
    if assignment.resume_from():
        kept = f"The last checkpoint is of step {assignment.first_step()} of {assignment.num_steps}; the same command goes on from there"
    if isinstance(error, ray.train.ControllerError):
        if isinstance(error.controller_failure, UserError):
            return error.controller_failure
        if isinstance(error.controller_failure, RunStopped):
            return RunStopped(f"{error.controller_failure}. {kept}")
    failures = error.worker_failures if isinstance(error, ray.train.WorkerGroupError) else {0: error}
    listed = "\n".join(f"  worker {rank}: {first_cause(failure)}" for rank, failure in sorted(failures.items()))
    return RunStopped(
        f"training failed {assignment.job.training.max_failures + 1} times, the last time by\n{listed}\nThe tracebacks are in "
        f"/tmp/ray/session_latest/logs/train. {kept}"
    )


def _dataset(assignment: Assignment, workers: int) -> ray.data.Dataset:
    """The rest of the run's rows for so many workers. Made anew at every start of the workers, so a restart resumes exactly."""
    steps = range(assignment.first_step(), assignment.num_steps)
    return plan_dataset(assignment.plan, assignment.held_out, steps, assignment.job, assignment.features, workers)


def _work(config: dict[str, Any], records: Queue, filming: Filming | None) -> None:
    # Imported here because the controller imports this module too, and needs neither the network nor DeepSpeed.
    from ray_s2v.training.worker import work

    work(config["assignment"], lambda record: records.actor.put_nowait.remote(record), filming)
