"""What driver, trials and Ray Tune tell one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_s2v.config.sweep import Sweep

LOSS, STEP, FOLDER = "held_out_loss", "step", "folder"  # of what trials report; the folder is the run's


def trial_values(sweep: Sweep, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a trial by section.key, from Tune's configuration of it: there a value of a list is its place in the list.

    Optuna takes plain values alone, and numbers stay exact.
    """
    return {key: config[key] if given.values is None else given.values[config[key]] for key, given in sweep.space.items()}
