"""A sweep's space in Ray Tune's terms, and what schedulers remember."""

from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.variant_generator import generate_variants

from ray_s2v.config.sweep import Sweep
from ray_s2v.reporting.trials import TrialRecord
from ray_s2v.tuning.records import save_record, trial_folder
from ray_s2v.tuning.schedulers import Asha, Pbt, scheduler_of
from ray_s2v.tuning.search import number_of_trials, search_algorithm, tune_space
from ray_s2v.tuning.terms import LOSS, STEP, trial_values

RATE = "training.learning_rate"
PLACES = [[], [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": -2}]]


def sweep_of(search: str, space: dict[str, Any], **settings: Any) -> Sweep:
    return Sweep.model_validate({"folder": "f", "job": "j.yaml", "search": search, "space": space, **settings})


def test_a_grid_is_every_combination_with_its_own_values() -> None:
    sweep = sweep_of("grid", {RATE: {"values": [1e-3, 1e-2]}, "tread.routes": {"values": PLACES}})
    chosen = [
        trial_values(sweep, config) for _, config in generate_variants({"config": tune_space(sweep)}) for config in [config["config"]]
    ]
    assert len(chosen) == number_of_trials(sweep) == 4
    assert all(values in chosen for values in ({RATE: rate, "tread.routes": routes} for rate in (1e-3, 1e-2) for routes in PLACES))


def test_what_is_drawn_lies_in_its_range_and_whole_numbers_have_both_ends() -> None:
    space = {
        RATE: {"log_uniform": [1e-5, 1e-2]},
        "dropout.text": {"uniform": [0.1, 0.2]},
        "lora.rank": {"integer": [4, 6]},
        "training.warmup_steps": {"log_integer": [1, 3]},
        "tread.routes": {"values": PLACES},
    }
    sweep = sweep_of("random", space, trials=200)
    drawn = [trial_values(sweep, {key: domain.sample() for key, domain in tune_space(sweep).items()}) for _ in range(200)]
    assert all(1e-5 <= values[RATE] <= 1e-2 and 0.1 <= values["dropout.text"] <= 0.2 for values in drawn)
    assert {values["lora.rank"] for values in drawn} == {4, 5, 6}
    assert {values["training.warmup_steps"] for values in drawn} == {1, 2, 3}
    assert sum(values[RATE] < 3e-4 for values in drawn) == pytest.approx(100, abs=30), "half of them in the lower half of the logarithms"
    assert all(values["tread.routes"] in PLACES for values in drawn)


def test_a_population_is_not_held_back() -> None:
    """Ray would else begin the next trial of a population when another has ended, and nobody could learn from anybody."""
    population = sweep_of("random", {RATE: {"log_uniform": [1e-5, 1e-2]}}, trials=4, pbt={"every_steps": 2})
    plain = sweep_of("random", {RATE: {"log_uniform": [1e-5, 1e-2]}}, trials=4)
    of_population, of_plain = search_algorithm(population, 1), search_algorithm(plain, 1)
    assert isinstance(of_population, BasicVariantGenerator)
    assert isinstance(of_plain, BasicVariantGenerator)
    assert (of_population.max_concurrent, of_plain.max_concurrent) == (0, 1)


def test_optuna_takes_the_space() -> None:
    sweep = sweep_of("optuna", {RATE: {"log_uniform": [1e-5, 1e-2]}, "tread.routes": {"values": PLACES}}, trials=3)
    search = search_algorithm(sweep, 2)
    assert search.set_search_properties(LOSS, "min", tune_space(sweep))
    values = trial_values(sweep, search.suggest("a"))
    assert 1e-5 <= values[RATE] <= 1e-2
    assert values["tread.routes"] in PLACES


def a_trial(number: int, rate: float = 1e-3) -> Trial:
    return Trial("f", config={RATE: rate}, trial_id=f"t{number}", trial_name_creator=lambda trial: f"trial_{number:03d}", stub=True)


def recorded(folder: Path, number: int, points: list[tuple[int, float]]) -> None:
    home = trial_folder(folder, f"trial_{number:03d}")
    save_record(home, TrialRecord(f"trial_{number:03d}", {}, "running", points, "", str(home)))


def asha(folder: Path) -> Asha:
    sweep = sweep_of("grid", {RATE: {"values": [1e-3, 1e-2]}}, asha={"grace_steps": 2, "reduction_factor": 2})
    scheduler = scheduler_of(sweep, 8, folder)
    assert isinstance(scheduler, Asha)
    assert scheduler.set_search_properties(LOSS, "min")
    return scheduler


def test_asha_knows_what_was_before_a_kill(tmp_path: Path) -> None:
    recorded(tmp_path, 1, [(0, 3.0), (2, 2.0)])
    after_kill, forgetful = asha(tmp_path), asha(tmp_path / "empty")
    for scheduler, decision in ((after_kill, "STOP"), (forgetful, "CONTINUE")):
        for number in (1, 2):
            scheduler.on_trial_add(None, a_trial(number))
        assert scheduler.on_trial_result(None, a_trial(2), {STEP: 2, LOSS: 2.5}) == decision
    assert after_kill.on_trial_result(None, a_trial(1), {STEP: 4, LOSS: 1.5}) == "CONTINUE"


class Controller:
    """The little that PBT asks of Tune when a trial is added."""

    search_alg = None


def pbt(folder: Path) -> Pbt:
    sweep = sweep_of("random", {RATE: {"uniform": [1e-3, 2e-3]}}, trials=2, pbt={"every_steps": 4})
    scheduler = scheduler_of(sweep, 16, folder)
    assert isinstance(scheduler, Pbt)
    assert scheduler.set_search_properties(LOSS, "min")
    return scheduler


def test_pbt_goes_on_counting_from_where_trials_stood(tmp_path: Path) -> None:
    """Counted from zero its turns would come at steps 6, 10, ..., where there are no checkpoints."""
    recorded(tmp_path, 1, [(0, 3.0), (2, 2.5), (4, 2.0), (6, 1.5)])
    scheduler = pbt(tmp_path)
    trial = a_trial(1)
    scheduler.on_trial_add(Controller(), trial)
    state = scheduler._trial_state[trial]
    assert (state.last_train_time, state.last_perturbation_time, state.last_score) == (6, 4, -1.5)


def test_pbt_stays_in_the_range(tmp_path: Path) -> None:
    scheduler = pbt(tmp_path)
    found = {scheduler._get_new_config(a_trial(1), a_trial(2, 1.9e-3))[0][RATE] for _ in range(100)}
    assert max(found) == 2e-3, "a fifth more is too much"
    assert min(found) >= 1e-3
    assert any(rate == pytest.approx(1.52e-3) for rate in found)
