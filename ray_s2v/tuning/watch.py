"""Ray Tune's events on the driver: kept in the trials' records, and told on the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial

from ray_s2v.config.sweep import Sweep
from ray_s2v.reporting.trials import TrialRecord
from ray_s2v.schema import RunStopped, UserError
from ray_s2v.sweep_file import described
from ray_s2v.training.failures import first_cause
from ray_s2v.tuning.records import FINAL, load_record, save_record, trial_folder, with_point
from ray_s2v.tuning.terms import FOLDER, LOSS, STEP, trial_values


class Watch(Callback):
    """Keeps the records of trials. `ended` is called after the end of each."""

    def __init__(self, sweep: Sweep, folder: Path, num_steps: int, say: Callable[[str], None], ended: Callable[[], object]) -> None:
        self.sweep, self.folder, self.num_steps, self.say, self.ended = sweep, folder, num_steps, say, ended

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        home = trial_folder(self.folder, str(trial))
        values = trial_values(self.sweep, trial.config)
        record = load_record(home)
        if record and record.values != values and not self.sweep.pbt:
            # A kill came between the trial's start and Tune's note of it; the search has chosen anew.
            shutil.rmtree(home)
            record = None
        if record and record.state in FINAL:
            return
        if record and record.points:
            self.say(f"{trial} goes on after step {record.points[-1][0]}: {described(values)}")
        else:
            self.say(f"{trial} starts: {described(values)}")
        record = record or TrialRecord(str(trial), values, "running", [], "", str(home))
        save_record(home, replace(record, state="running", error=""))

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any) -> None:
        before = self._record(trial)
        record = with_point(before, result[FOLDER], trial_values(self.sweep, trial.config), result[STEP], result[LOSS])
        if record != before:
            save_record(trial_folder(self.folder, str(trial)), record)
            self.say(f"{trial}  step {result[STEP]}/{self.num_steps}  held-out loss {result[LOSS]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._record(trial)
        if record.state in FINAL:
            return
        step, loss = record.points[-1]
        if step == self.num_steps:
            self._end(trial, replace(record, state="done"), f"is done: held-out loss {loss:.4f}")
        else:
            self._end(trial, replace(record, state="stopped early"), f"is stopped early, after step {step}: others do better")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        assert trial.pickled_error_file
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        cause = error.cause if isinstance(error, RayTaskError) else error
        words = str(cause) if isinstance(cause, UserError | RunStopped) else first_cause(error)
        self._end(trial, replace(self._record(trial), state="failed", error=words), f"failed: {words}")

    def _end(self, trial: Trial, record: TrialRecord, words: str) -> None:
        save_record(trial_folder(self.folder, str(trial)), record)
        self.say(f"{trial} {words}")
        self.ended()

    def _record(self, trial: Trial) -> TrialRecord:
        record = load_record(trial_folder(self.folder, str(trial)))
        assert record, "written when the trial started"
        return record
