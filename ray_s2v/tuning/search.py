"""A sweep's space and search in Ray Tune's terms."""

from __future__ import annotations

from typing import Any

import optuna
from ray import tune
from ray.tune.search import ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from ray_s2v.config.sweep import Range, Sweep


def tune_space(sweep: Sweep) -> dict[str, Any]:
    """What Tune draws from, by section.key; of a list of values, the place in the list."""
    return {key: _domain(given, sweep.search == "grid") for key, given in sweep.space.items()}


def _domain(given: Range, is_grid: bool) -> Any:
    if given.values is not None:
        places = list(range(len(given.values)))
        return tune.grid_search(places) if is_grid else tune.choice(places)
    low, high = given.ends
    match given.kind:
        case "uniform":
            return tune.uniform(low, high)
        case "log_uniform":
            return tune.loguniform(low, high)
        case "integer":
            return tune.randint(int(low), int(high) + 1)
        case _:
            return tune.lograndint(int(low), int(high) + 1)


def number_of_trials(sweep: Sweep) -> int:
    return sweep.grid_size if sweep.search == "grid" else sweep.trials or 0


def search_algorithm(sweep: Sweep, at_once: int) -> SearchAlgorithm | Searcher:
    """What chooses the trials' values, at most `at_once` ahead. A population is chosen as a whole: its trials take turns."""
    if sweep.search == "optuna":
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return ConcurrencyLimiter(OptunaSearch(seed=sweep.seed), max_concurrent=at_once)
    return BasicVariantGenerator(max_concurrent=0 if sweep.pbt else at_once, random_state=sweep.seed)
