"""Which trials go on. Ray Tune forgets what its schedulers have seen when a sweep is resumed; these know it from the trials' records."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.sample import Categorical

from ray_s2v.config.sweep import Sweep
from ray_s2v.tuning.records import load_record, trial_folder
from ray_s2v.tuning.search import tune_space
from ray_s2v.tuning.terms import LOSS, STEP


def scheduler_of(sweep: Sweep, num_steps: int, folder: Path) -> TrialScheduler:
    """As the sweep says; plain order without asha and pbt."""
    if sweep.asha:
        return Asha(
            folder, time_attr=STEP, max_t=num_steps, grace_period=sweep.asha.grace_steps, reduction_factor=sweep.asha.reduction_factor
        )
    if sweep.pbt:
        random.seed(sweep.seed)  # Tune draws changes from these two
        np.random.seed(sweep.seed)
        return Pbt(sweep, folder)
    return FIFOScheduler()


def points_of(folder: Path, trial: Trial) -> list[tuple[int, float]]:
    """Steps done and losses that a trial has told."""
    record = load_record(trial_folder(folder, str(trial)))
    return record.points if record else []


class Asha(ASHAScheduler):
    """Ends trials early."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self.folder = folder

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        for step, loss in points_of(self.folder, trial):
            self.on_trial_result(tune_controller, trial, {STEP: step, LOSS: loss})


class Pbt(PopulationBasedTraining):
    """Replaces trials that do badly by others with changed values."""

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        assert sweep.pbt
        space = tune_space(sweep)
        super().__init__(
            time_attr=STEP,
            perturbation_interval=sweep.pbt.every_steps,
            hyperparam_mutations={key: domain.categories if isinstance(domain, Categorical) else domain for key, domain in space.items()},
            quantile_fraction=sweep.pbt.quantile,
            resample_probability=sweep.pbt.resample,
            custom_explore_fn=self._within,
            log_config=False,
        )
        self.sweep, self.folder, self.every = sweep, folder, sweep.pbt.every_steps

    def _within(self, config: dict[str, Any]) -> dict[str, Any]:
        """The changed values back in their ranges, which a fifth more or less can leave."""
        for key, given in self.sweep.space.items():
            if given.values is None:
                low, high = given.ends
                config[key] = min(max(config[key], low), high)
        return config

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        if points := points_of(self.folder, trial):
            step, loss = points[-1]
            state = self._trial_state[trial]
            state.last_train_time, state.last_perturbation_time = step, step - step % self.every
            state.last_score = -loss
