"""One trial as Ray Tune knows it: it starts the run in a process of its own, and tells Tune the held-out losses.

The run is a driver, and a job of the cluster's, for itself: when it ends, in whatever way, the cluster takes back all that it held at
once. Ray Train started from Tune's own process would leave its workers' places taken where Tune ends the trial early.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Checkpoint
from ray.util.queue import Queue

from ray_s2v.config.job import Job
from ray_s2v.config.sweep import Sweep
from ray_s2v.job_file import dump_job, load_job
from ray_s2v.schema import RunStopped
from ray_s2v.sweep_file import trial_job
from ray_s2v.training.progress import complete_checkpoints
from ray_s2v.tuning.folder import write_whole
from ray_s2v.tuning.records import FINAL, load_record, trial_folder
from ray_s2v.tuning.telling import Telling
from ray_s2v.tuning.terms import FOLDER, LOSS, STEP, trial_values

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what `ray job submit` tells a driver: the code that its workers are to have


def trainable(sweep: Sweep, settings: Mapping[str, Any], folder: Path, notes: Queue) -> Callable[[dict[str, Any]], None]:
    """What Tune runs. settings: of every trial's job, beside its own values. `notes` gets what a person should know."""
    here, given = Path.cwd(), {name: os.environ[name] for name in (JOB_CONFIG,) if name in os.environ}

    def trial(config: dict[str, Any]) -> None:
        os.chdir(here)  # paths of the job begin where the driver began; Ray starts processes elsewhere
        os.environ.update({**given, "RAY_ADDRESS": ray.get_runtime_context().gcs_address})
        name = tune.get_context().get_trial_name()
        values = {**trial_values(sweep, config), **settings}
        run_trial(sweep, trial_folder(folder, name), values, lambda text: notes.put({"note": f"{name}: {text}"}))

    return trial


def run_trial(sweep: Sweep, home: Path, values: dict[str, Any], note: Callable[[str], None]) -> None:
    """Runs a trial to its end, from wherever it stands. home: its folder. Raises ConfigError, and RunStopped where the run fails."""
    record = load_record(home)
    assert record, "the driver has written it"
    given = tune.get_checkpoint()
    job = trial_job(sweep, {**values, **place_of_run(home, Path(given.path) if given else None, values)})
    run = Path(job.run.folder)
    assert job.training.steps

    def tell(step: int, loss: float, checkpoint_of: int | None, is_over: bool) -> None:
        # Tune copies it, and prunes what it has copied; one that the run has pruned meanwhile is not handed on.
        checkpoint = dict(complete_checkpoints(run / "checkpoints")).get(checkpoint_of) if checkpoint_of is not None else None
        measured = {STEP: step, LOSS: loss, FOLDER: str(run), "done": is_over}
        tune.report(measured, checkpoint=Checkpoint.from_directory(checkpoint) if checkpoint else None)

    told = record.points if record.folder == str(run) else []
    telling = Telling(tell, told, job.training.steps, sweep.pbt.every_steps if sweep.pbt else None)
    if record.state not in FINAL:  # else Tune's state is older than the record
        for line in measured_before(run):
            telling.take({"held_out": line})
        for message in messages(job, home):
            if "note" in message:
                note(message["note"])
            else:
                telling.take(message)
    telling.finish()


def messages(job: Job, home: Path) -> Iterator[dict[str, Any]]:
    """What the run of a job says, until its end. Raises RunStopped where it fails. It ends when this process does.

    home: a folder for the job's file, and for what the run prints.
    """
    file, log = home / "started.yaml", home / "run.log"
    write_whole(file, dump_job(job))
    command = [sys.executable, "-m", "ray_s2v.tuning.one_run", str(file)]
    piped = partial(subprocess.Popen[str], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    # A session of its own, so that Ctrl-C in a terminal is the driver's alone.
    with log.open("a") as errors, piped(command, stderr=errors, start_new_session=True) as run:
        assert run.stdout
        for line in run.stdout:
            message = json.loads(line)
            if "failed" in message:
                raise RunStopped(message["failed"])
            yield message
        run.wait()  # before its input is closed: it would take that for the end of this process
    if run.returncode:
        raise RunStopped(f"the run's process ended with code {run.returncode}; what it said last is in {log}")


def place_of_run(home: Path, given: Path | None, values: Mapping[str, Any]) -> dict[str, str]:
    """run.folder, and checkpoint.resume where the trial's checkpoints are not to say it.

    given: the checkpoint that Tune gives the trial: its own, from which or from a later one it goes on, or another's, with which it
    begins anew in a folder below its own.
    """
    if given is None:
        return {"run.folder": str(home)}
    came_from = Path(load_job(str(given / "job.yaml")).run.folder)
    if came_from == home or home in came_from.parents:
        return {"run.folder": str(came_from), "checkpoint.resume": "latest"}
    donor = came_from.relative_to(home.parent).parts[0]
    step = json.loads((given / "progress.json").read_text())["step"]
    # By its values: a trial may begin twice with the same checkpoint.
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return {"run.folder": str(home / f"from_{donor}_step_{step:06d}_{digest}"), "checkpoint.resume": str(given)}


def measured_before(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's held_out.jsonl; a kill may have left half of the last."""
    file = run / "held_out.jsonl"
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]
