"""A sweep from the driver: checks, the store that trials share, then the trials."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ray
from ray import tune
from ray.tune import CheckpointConfig, PlacementGroupFactory, ResumeConfig
from ray.tune.experiment import Trial

from ray_s2v.cluster.capacity import for_training
from ray_s2v.cluster.supply import HEAD, growth, supply
from ray_s2v.config.job import Job
from ray_s2v.config.sweep import Sweep
from ray_s2v.data.encode import wanted_features
from ray_s2v.reporting.summary import clips_summary
from ray_s2v.reporting.terminal import Count
from ray_s2v.reporting.trials import trials_table
from ray_s2v.schema import RunStopped
from ray_s2v.sweep_file import combinations, trial_job
from ray_s2v.training.encoding import run_encoding
from ray_s2v.training.interrupt import until_done
from ray_s2v.training.prepare import Prepared, prepare
from ray_s2v.training.relay import open_relay, pass_on
from ray_s2v.tuning.folder import check_folder, in_use
from ray_s2v.tuning.outputs import BEST, CSV, PICTURE, renew
from ray_s2v.tuning.room import share_rows, trials_at_once
from ray_s2v.tuning.schedulers import scheduler_of
from ray_s2v.tuning.search import number_of_trials, search_algorithm, tune_space
from ray_s2v.tuning.terms import LOSS
from ray_s2v.tuning.trial import trainable
from ray_s2v.tuning.watch import Watch

TICK_S = 0.5
# Read by Tune when it runs: its state is on disk within a second, what goes wrong is told by us, and its own files of results are not
# wanted.
ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # which shows a table even where nothing is asked for
}
CHECKPOINTS_KEPT = 4  # by Tune, of each trial, for others to go on from


def run_sweep(sweep: Sweep, name: str, say: Callable[[str], None]) -> None:
    """Runs all trials that are not done yet; returns when the best job is written. name: of the sweep's file.

    Raises ConfigError or DataError before anything has run, RunStopped where no trial came to its end, KeyboardInterrupt.
    """
    folder = Path(sweep.folder).expanduser().resolve()
    check_folder(sweep, folder)
    job = base_job(sweep, folder)
    prepared = prepare(job, say)
    say(clips_summary(prepared.job, prepared.plan, prepared.discovery))
    with in_use(sweep, folder):
        streams = _fill(prepared, say) or (prepared.job.data.features == "auto" and not share_rows(sweep))
        trials, there = number_of_trials(sweep), supply(growth())
        asked = {tuple(for_training(trial_job(sweep, values), streams)) for values in combinations(sweep)}
        at_once = min(trials_at_once(one, there, min(trials, sweep.at_once or trials)) for one in asked)
        say(f"{trials} trials of {prepared.num_steps} steps, {at_once} at a time")
        store = prepared.job.data.store
        refresh = partial(renew, sweep, name, folder, store)
        _tune(sweep, prepared, folder, at_once, streams, say, refresh)
        records = refresh()
    say("\n" + trials_table(records))
    if all(record.state == "failed" for record in records):
        raise RunStopped("every trial failed; the same command tries them again")
    say(
        "\n".join(
            f"{what} {folder / file}" for what, file in (("the trials are in", CSV), ("the best job is", BEST), ("a picture is", PICTURE))
        )
    )


def base_job(sweep: Sweep, folder: Path) -> Job:
    """A job of the sweep's, for what its trials have in common."""
    first = next(combinations(sweep))
    job = trial_job(sweep, {**first, "run.folder": str(folder)})
    return job if job.data.store else trial_job(sweep, {**first, "run.folder": str(folder), "data.store": str(folder / "store")})


def _fill(prepared: Prepared, say: Callable[[str], None]) -> bool:
    """Puts into the store what it lacks, so that trials need no encoders; whether they need them all the same."""
    if not prepared.features.store or not prepared.features.streams:
        return prepared.features.streams
    outcome = run_encoding(prepared, wanted_features(prepared.rows(), prepared.features), Count().show, say)
    for clip, reason in sorted({**outcome.unusable, **outcome.lost}.items()):
        say(f"{clip} could not be encoded: {reason}")
    return bool(outcome.lost)


def _tune(
    sweep: Sweep, prepared: Prepared, folder: Path, at_once: int, streams: bool, say: Callable[[str], None], refresh: Callable[[], object]
) -> None:
    os.environ.update(ENVIRONMENT)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\.tune")
    job = prepared.job
    settings: dict[str, str | int] = {"data.store": job.data.store}
    if streams and at_once > 1:  # or the encoders of one trial would grow into the room of another
        settings |= {f"encoders.{kind}.actors": getattr(job.encoders, kind).actors.min for kind in ("vae", "speech", "text")}
    if at_once > 1 and job.training.workers.is_elastic and "training.workers" not in sweep.space:  # likewise
        settings["training.workers"] = job.training.workers.min
    notes = open_relay()
    has_state = usable_state(folder / "tune")
    name = partial(trial_name, counted_from=1 if sweep.search == "optuna" else 0)
    run = partial(
        tune.run,
        tune.with_resources(trainable(sweep, settings, folder, notes), PlacementGroupFactory([slot(at_once)])),
        name="tune",
        storage_path=str(folder),
        config=tune_space(sweep),
        num_samples=1 if sweep.search == "grid" else sweep.trials,
        metric=LOSS,
        mode="min",
        search_alg=search_algorithm(sweep, at_once),
        scheduler=scheduler_of(sweep, prepared.num_steps, folder),
        checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT) if sweep.pbt else None,
        callbacks=[Watch(sweep, folder, prepared.num_steps, say, refresh)],
        trial_name_creator=name,
        trial_dirname_creator=name,
        resume_config=ResumeConfig(errored=ResumeConfig.ResumeType.RESUME) if has_state else None,
        raise_on_failed_trial=False,
        verbose=0,
    )
    until_done(run, lambda: pass_on(notes, lambda record: say(record["note"]), wait_s=TICK_S))


def slot(at_once: int) -> dict[str, float]:
    """What a trial's own process reserves: its share of a resource that only this machine has, no CPU of those that workers want."""
    here = next(node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id())
    name = next(name for name in here["Resources"] if name.startswith("node:") and name != HEAD)
    return {name: math.floor(10_000 / at_once) / 10_000}  # Ray counts in ten-thousandths


def trial_name(trial: Trial, counted_from: int) -> str:
    """`trial_001`, by the number that its search gives it."""
    return f"trial_{int(trial.experiment_tag.partition('_')[0]) + 1 - counted_from:03d}"


def usable_state(folder: Path) -> bool:
    """Whether Tune's state of an earlier start is there; what a kill has left half written is removed, an older one is as good."""
    for file in sorted(folder.glob("experiment_state-*.json"), reverse=True):
        try:
            json.loads(file.read_text(encoding="utf-8"))
            return True
        except ValueError:
            file.unlink()
    return False
