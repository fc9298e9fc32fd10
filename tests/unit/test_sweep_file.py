"""Sweeps are read whole or refused with every mistake named; each trial's job is the sweep's job with that trial's values."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_s2v.config.job import HeldOut, Job
from ray_s2v.config.sweep import FIXED, Pbt, Range, Sweep, why_fixed
from ray_s2v.job_file import dump_job, load_job
from ray_s2v.schema import ConfigError
from ray_s2v.sweep_file import combinations, described, load_sweep, trial_job
from tests.jobs import SETTINGS, SHIPPED, changed

JOBS = Path(__file__).parents[2] / "jobs"
SWEEPS = sorted(JOBS.glob("sweep*.yaml"))
HELD_OUT = {"path": "kept", "is_eval": True}
JOB = changed({"data.sources": [*SETTINGS["data"]["sources"], HELD_OUT], "held_out": {"every": 2}, "checkpoint": {"every": 4}})
RATES = {"training.learning_rate": {"values": [1e-4, 3e-4]}}
DRAWN: dict[str, Any] = {"search": "random", "trials": 3}


def grid(**given_settings: Any) -> dict[str, Any]:
    return {"folder": "runs/s", "job": "job.yaml", "space": RATES, "search": "grid"} | given_settings


def load(folder: Path, sweep: Any, overrides: tuple[str, ...] = (), job: Any = JOB) -> Sweep:
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    (folder / "sweep.yaml").write_text(sweep if isinstance(sweep, str) else yaml.safe_dump(sweep, sort_keys=False))
    return load_sweep(str(folder / "sweep.yaml"), overrides)


def mistakes(folder: Path, sweep: Any, overrides: tuple[str, ...] = (), job: Any = JOB) -> list[str]:
    """The lines of the error, without the first, which counts them."""
    with pytest.raises(ConfigError) as caught:
        load(folder, sweep, overrides, job)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{folder}/sweep.yaml: {len(lines)} mistake{'s' if len(lines) > 1 else ''}"
    return [line.strip() for line in lines]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.name)
def test_every_shipped_sweep_loads(file: Path) -> None:
    sweep = load_sweep(str(file))
    assert "training.learning_rate" in sweep.space
    assert "tread.routes.0.selection_ratio" in sweep.space


def test_there_are_shipped_sweeps_and_they_are_no_jobs() -> None:
    assert {"sweep.yaml", "sweep_demo.yaml"} <= {file.name for file in SWEEPS}
    assert not set(SWEEPS) & set(SHIPPED)


def test_the_shipped_show_is_two_by_two() -> None:
    assert len(list(combinations(load_sweep(str(JOBS / "sweep_demo.yaml"))))) == 4


def test_job_lies_beside_the_sweep_file_and_is_read_once(tmp_path: Path) -> None:
    sweep = load(tmp_path, grid())
    assert sweep.job == JOB
    (tmp_path / "job.yaml").unlink()
    assert trial_job(sweep, {}) == Job.model_validate(JOB)
    assert Sweep.model_validate(yaml.safe_load(yaml.safe_dump(sweep.model_dump(mode="json")))) == sweep


def test_job_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    assert load(tmp_path / "sweeps", grid(job=str(tmp_path / "job.yaml"))).job == JOB
    assert load(tmp_path / "sweeps", grid(job="../job.yaml")).job == JOB
    with pytest.raises(ConfigError, match=r"sweeps/absent\.yaml: No such file"):
        load(tmp_path / "sweeps", grid(job="absent.yaml"))


def test_trial_is_the_job_with_set_and_then_its_values(tmp_path: Path) -> None:
    routes = [{"selection_ratio": 0.5, "start_layer_idx": 2, "end_layer_idx": -2}]
    sweep = load(tmp_path, grid(set={"training.weight_decay": 0.5, "training.steps": 12, "tread.routes": routes}))
    before = copy.deepcopy(sweep)
    values = {"training.learning_rate": 3e-4, "tread.routes.0.selection_ratio": 0.25, "training.steps": 14, "run.folder": "elsewhere"}
    expected = changed(
        {
            "data": JOB["data"],
            "held_out": JOB["held_out"],
            "checkpoint": JOB["checkpoint"],
            "training.weight_decay": 0.5,
            "training.steps": 14,
            "training.learning_rate": 3e-4,
            "tread.routes": [routes[0] | {"selection_ratio": 0.25}],
            "run.folder": "elsewhere",
        }
    )
    assert trial_job(sweep, values) == Job.model_validate(expected)
    assert sweep == before, "one trial's values must not reach the next"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.folder", "runs/a: b #c"),
        ("run.folder", "1e-4"),
        ("training.learning_rate", 1.2345678901234567e-5),
        ("lora.targets", ["to_q", "12", "yes"]),
        ("training.accelerator_type", None),
        ("model.compile", False),
    ],
)
def test_values_are_not_parsed_again(tmp_path: Path, key: str, value: Any) -> None:
    section, name = key.split(".")
    assert getattr(getattr(trial_job(load(tmp_path, grid()), {key: value}), section), name) == value


def test_trial_whose_values_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^training\.workers=9: 1 mistake\n  training: global_batch 8 must be at least"):
        trial_job(load(tmp_path, grid()), {"training.workers": 9})


def test_combinations_of_a_grid_and_extremes_of_a_search(tmp_path: Path) -> None:
    space = RATES | {"lora.rank": {"values": [4, 8]}}
    a, b = "training.learning_rate", "lora.rank"
    crossed = [{a: 1e-4, b: 4}, {a: 1e-4, b: 8}, {a: 3e-4, b: 4}, {a: 3e-4, b: 8}]
    assert list(combinations(load(tmp_path, grid(space=space)))) == crossed
    drawn = {a: {"log_uniform": [1e-5, 1e-3]}, b: {"integer": [2, 64]}, "lora.layers": {"values": ["all", "blocks"]}}
    first = {a: 1e-5, b: 2, "lora.layers": "all"}
    tried = [first, first | {a: 1e-3}, first | {b: 64}, first | {"lora.layers": "blocks"}]
    assert list(combinations(load(tmp_path, grid(space=drawn, **DRAWN)))) == tried


def test_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    text = yaml.safe_dump(grid()).replace("0.0001", "1e-4").replace("0.0003", "+3.e-4")
    assert load(tmp_path, text).space["training.learning_rate"].values == [1e-4, 3e-4]


def test_overrides_of_the_sweep_and_of_the_job(tmp_path: Path) -> None:
    overrides = ("folder=elsewhere", "space.training.learning_rate.values=[0.1, 0.2, 0.3]", "training.steps=20", "asha.grace_steps=4")
    sweep = load(tmp_path, grid(set={"training.steps": 10}), (*overrides, "data.sources.0.path=/a/b"))
    assert (sweep.folder, sweep.space["training.learning_rate"].values) == ("elsewhere", [0.1, 0.2, 0.3])
    assert sweep.set == {"training.steps": 20, "data.sources.0.path": "/a/b"}
    assert sweep.asha is not None
    assert (sweep.asha.grace_steps, sweep.asha.reduction_factor) == (4, 3)
    job = trial_job(sweep, {})
    assert (job.training.steps, job.data.sources[0].path) == (20, "/a/b")


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        ("training.steps", "'training.steps': an override reads section.key=value"),
        ("training.steps=[", "'training.steps=[': the value is no readable YAML"),
        ("training.stepps=3", "job: training.stepps: unknown; did you mean steps?"),
        ("trial=3", "trial: unknown; did you mean trials?"),
        ("asha.grace=3", "asha.grace: unknown; did you mean grace_steps?"),
        ("values=3", "values: unknown; there is space.section.key.values"),
    ],
)
def test_wrong_override(tmp_path: Path, override: str, mistake: str) -> None:
    assert mistake in mistakes(tmp_path, grid(), (override,))


def test_setting_of_the_job_at_the_top_of_a_sweep(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, grid(training={"steps": 3}))
    assert line == "training: unknown; it is the job's: give it in set, as section.key: value"


def test_every_mistake_of_the_sweep_is_told_at_once(tmp_path: Path) -> None:
    space = {"training.learning_rate": {"values": []}, "lora.rank": {"integer": [8, 4]}, "lora.alpha": {}}
    lines = mistakes(tmp_path, grid(space=space, search="bayes", trials=0, at_once=0, asha={"grace_steps": 0}, folder=""), ("x",))
    places = ["'x'", "space.training.learning_rate.values", "space.lora.rank", "space.lora.alpha", "search", "trials", "at_once"]
    assert [line.split(": ")[0] for line in lines] == ["'x'", "folder", *places[1:], "asha.grace_steps"]


@pytest.mark.parametrize(
    ("given_range", "mistake"),
    [
        ({}, "give one of values, uniform, log_uniform, integer, log_integer"),
        ({"values": [1], "uniform": [1, 2]}, "give one of values, uniform, log_uniform, integer, log_integer, not values and uniform"),
        ({"uniform": [2, 2]}, "uniform: the low end 2.0 must be below the high end 2.0"),
        ({"log_uniform": [0, 1]}, "log_uniform: the low end 0.0 must be above 0"),
        ({"log_integer": [-1, 1]}, "log_integer: the low end -1 must be above 0"),
        ({"integer": [9, 1]}, "integer: the low end 9 must be below the high end 1"),
        ({"values": [1, 2, 1]}, "values: 1 is given twice"),
        ({"values": [[1], "a", [1]]}, "values: [1] is given twice"),
    ],
)
def test_range_that_is_none(tmp_path: Path, given_range: dict[str, Any], mistake: str) -> None:
    assert mistakes(tmp_path, grid(space={"lora.rank": given_range}, **DRAWN)) == [f"space.lora.rank: {mistake}"]


@pytest.mark.parametrize("ends", [{"uniform": [1]}, {"uniform": [1, 2, 3]}, {"integer": [1.5, 3]}, {"uniform": [0, float("inf")]}])
def test_wrong_ends(tmp_path: Path, ends: dict[str, Any]) -> None:
    (line,) = mistakes(tmp_path, grid(space={"lora.rank": ends}, **DRAWN))
    assert line.startswith(f"space.lora.rank.{next(iter(ends))}")


def test_what_a_range_says_of_itself() -> None:
    facts = [
        (Range(uniform=(0.1, 0.5)), "uniform", False, False, [0.1, 0.5]),
        (Range(log_uniform=(1e-5, 1e-3)), "log_uniform", True, False, [1e-5, 1e-3]),
        (Range(integer=(2, 8)), "integer", False, True, [2, 8]),
        (Range(log_integer=(2, 8)), "log_integer", True, True, [2, 8]),
        (Range(values=["a", None, True, [1]]), "values", False, False, ["a", None, True, [1]]),
    ]
    for found, kind, is_log, is_whole, extremes in facts:
        assert (found.kind, found.is_log, found.is_whole, found.extremes()) == (kind, is_log, is_whole, extremes)


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"space": {}}, "space: must not be empty"),
        ({"trials": 4}, "search: grid runs every combination: leave trials out"),
        ({"search": "optuna"}, "search: optuna needs trials, how many there shall be"),
        ({"search": "random"}, "search: random needs trials, how many there shall be"),
        (
            {"space": {"lora.alpha": {"uniform": [1, 2]}}},
            "space.lora.alpha: a grid needs values, not uniform; or give search: random",
        ),
        ({"asha": {"grace_steps": 4}, "pbt": {"every_steps": 4}} | DRAWN, "asha and pbt both say which trials go on: give one"),
        ({"pbt": {"every_steps": 4}}, "pbt draws and changes the values itself: give search: random, not grid"),
        ({"pbt": {"every_steps": 4}} | DRAWN | {"trials": 1}, "pbt needs a population: give trials of at least 2"),
        ({"set": {"training": {}}, "space": RATES}, ""),
        ({"set": {"training.learning_rate": 1}}, "space.training.learning_rate: training.learning_rate is given in set too"),
        ({"set": {"run.folder": "x"}}, "set: every trial gets a folder of its own below the sweep's"),
        (
            {"space": {"lora": {"values": [{"rank": 4}]}, "lora.rank": {"values": [4]}}},
            "space.lora and space.lora.rank are about the same setting: give one",
        ),
        ({"space": {f"x.{n}": {"values": list(range(10))} for n in range(5)}}, "space: a grid of 100000 trials; at most 10000"),
        ({"job": 3}, "job: must be the path of a job file (it is 3)"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, changes: dict[str, Any], mistake: str) -> None:
    if mistake:
        assert mistakes(tmp_path, grid(**changes)) == [mistake]
    else:
        assert mistakes(tmp_path, grid(**changes))[0].startswith("job: training")  # `set` took the section's own settings away


@pytest.mark.parametrize(
    "key",
    [
        "run.folder",
        "run",
        "demo",
        "demo.seed",
        "data",
        "data.store",
        "data.sources",
        "data.sources.0",
        "data.sources.0.is_eval",
        "data.feature_dtype",
        "encoders",
        "encoders.vae.path",
        "encoders.text",
        "encoders.text.tokenizer",
        "flow.shift",
        "held_out",
        "held_out.every",
        "training",
        "training.steps",
        "training.epochs",
        "checkpoint.resume",
        "checkpoint.copy_to",
    ],
)
def test_what_trials_must_not_differ_in(tmp_path: Path, key: str) -> None:
    (line,) = mistakes(tmp_path, grid(space={key: {"values": [1, 2]}}))
    assert line == f"space.{key}: {why_fixed(key)}"


@pytest.mark.parametrize(
    "key",
    [
        "run.seed",
        "data.sources.0.weight",
        "data.max_rejected",
        "encoders.vae.cpus",
        "encoders.vae.actors",
        "model.path",
        "model.base_precision",
        "lora",
        "lora.rank",
        "dropout.audio",
        "training.workers",
        "training.warmup_steps",
        "training.steps_x",
        "zero.stage",
        "checkpoint.every",
    ],
)
def test_what_trials_may_differ_in(key: str) -> None:
    assert why_fixed(key) == ""


def test_fixed_settings_are_settings() -> None:
    job = Job.model_validate(JOB).model_dump()
    for place in FIXED:
        section, *rest = place.split(".")
        node = job[section]
        for part in rest:
            node = node[part]


def test_source_that_is_held_out_is_the_same_for_all_trials(tmp_path: Path) -> None:
    space = {"data.sources.0.window": {"values": ["random", "end"]}, "data.sources.2.window": {"values": ["random", "end"]}}
    (line,) = mistakes(tmp_path, grid(space=space))
    assert line.startswith("space.data.sources.2.window: trials must share the clips that are held out")


@pytest.mark.parametrize("key", ["training.weight_decay", "lora.dropout", "tread.routes.0.selection_ratio"])
def test_what_pbt_can_change(tmp_path: Path, key: str) -> None:
    set_ = {"tread.routes": [{"selection_ratio": 0.5, "start_layer_idx": 2, "end_layer_idx": -2}]}
    sweep = load(tmp_path, grid(set=set_, space=RATES | {key: {"uniform": [0, 0.5]}}, pbt={"every_steps": 4}, **DRAWN))
    assert sweep.pbt == Pbt(every_steps=4, quantile=0.25, resample=0.25)


@pytest.mark.parametrize("key", ["lora.rank", "lora.alpha", "dropout.text", "training.continuation", "run.seed", "training.global_batch"])
def test_what_pbt_cannot_change(tmp_path: Path, key: str) -> None:
    (line,) = mistakes(tmp_path, grid(space={key: {"values": [1, 2]}}, pbt={"every_steps": 4}, **DRAWN))
    assert line.startswith(f"space.{key}: pbt can change only what a checkpoint does not depend on: training.learning_rate, ")


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"asha": {"grace_steps": 5}}, "asha.grace_steps 5 must be a multiple of held_out.every 2: only then a trial can be judged"),
        ({"asha": {"grace_steps": 10}}, "asha.grace_steps 10 must be below training.steps 10: else no trial ends early"),
        (
            {"pbt": {"every_steps": 6}} | DRAWN,
            "pbt.every_steps 6 must be a multiple of held_out.every 2 and of checkpoint.every 4: "
            "only then a trial can be judged, and others go on from there",
        ),
        ({"pbt": {"every_steps": 12}} | DRAWN, "pbt.every_steps 12 must be below training.steps 10: else no trial changes"),
        (
            {"set": {"training.steps": None, "training.epochs": 3}},
            "job: a sweep counts steps: give training.steps and not training.epochs, in the job or in set",
        ),
        (
            {"set": {"data.sources.2.is_eval": False, "held_out": {}}},
            "job: trials are compared by the loss of clips that are held out: give is_eval: true to a source of its own",
        ),
        (
            {"set": {"checkpoint.copy_to": "s3://bucket/run"}},
            "job: checkpoint.copy_to is of one run alone; give in set checkpoint.copy_to: null",
        ),
    ],
)
def test_sweep_that_does_not_suit_its_job(tmp_path: Path, changes: dict[str, Any], mistake: str) -> None:
    assert mistakes(tmp_path, grid(**changes)) == [mistake]


def test_job_that_says_nothing_about_measurements_has_the_default_ones(tmp_path: Path) -> None:
    every = HeldOut().every
    job = {name: section for name, section in JOB.items() if name != "held_out"} | {"training": JOB["training"] | {"steps": 5 * every}}
    assert load(tmp_path, grid(asha={"grace_steps": 2 * every}), job=job).asha
    (line,) = mistakes(tmp_path, grid(asha={"grace_steps": every + 1}), job=job)
    assert line.startswith(f"asha.grace_steps {every + 1} must be a multiple of held_out.every {every}")


def test_mistakes_of_trials_are_told_once_with_the_combination(tmp_path: Path) -> None:
    space = {"training.learning_rate": {"values": [1e-4, -1, 3e-4]}, "training.workers": {"values": [2, 4, 9]}}
    assert mistakes(tmp_path, grid(space=space, set={"lora.rank": 0, "run.sed": 1})) == [
        "job: run.sed: unknown; did you mean seed?",
        "job: lora.rank: must be greater than or equal to 1 (it is 0)",
        "job with training.learning_rate=0.0001, training.workers=9 (and 1 other combination): "
        "training: global_batch 8 must be at least workers * batch_size = 9 * 1, or a worker would lack clips",
        "job with training.learning_rate=-1, training.workers=2 (and 2 other combinations): "
        "training.learning_rate: must be greater than 0 (it is -1)",
    ]


def test_ends_of_ranges_are_tried(tmp_path: Path) -> None:
    space = {"lora.dropout": {"uniform": [0, 1]}, "dropout.text": {"uniform": [0, 0.9]}}
    assert mistakes(tmp_path, grid(space=space, **DRAWN)) == [
        "job with lora.dropout=1.0, dropout.text=0.0: lora.dropout: must be less than 1 (it is 1.0)",
        "job with lora.dropout=0.0, dropout.text=0.9: dropout: text, audio and both are shares of all samples: together at most 1",
    ]


def test_item_of_a_list_that_is_not_there(tmp_path: Path) -> None:
    space = {"tread.routes.0.selection_ratio": {"values": [0.2, 0.4]}}
    assert mistakes(tmp_path, grid(space=space)) == ["job: tread.routes.0.selection_ratio: there is no item 0; routes is not given"]
    assert mistakes(tmp_path, grid(space=space, set={"tread.routes": []})) == [
        "job: tread.routes.0.selection_ratio: there is no item 0; the list is empty"
    ]


def test_combination_in_words() -> None:
    assert described({"a.b": 0.001, "c": "x y", "d": [1, "z"], "e": "two\nlines"}) == "a.b=0.001, c=x y, d=[1, 'z'], e='two\\nlines'"


def test_job_of_a_trial_survives_its_dump(tmp_path: Path) -> None:
    job = trial_job(load(tmp_path, grid()), {"training.learning_rate": 0.1 + 0.2})
    (tmp_path / "trial.yaml").write_text(dump_job(job))
    assert load_job(str(tmp_path / "trial.yaml")) == job


def test_reading_a_sweep_imports_neither_torch_nor_ray() -> None:
    code = "import sys; import ray_s2v.sweep_file; print(sorted({'torch', 'ray', 'optuna', 'numpy', 'matplotlib'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


KEYS = st.sampled_from(
    [
        *Sweep.model_fields,
        *Range.model_fields,
        "training.learning_rate",
        "lora",
        "data.sources.0.path",
        "data.sources.2",
        "tread.routes.0",
        "x",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(10**400) | st.dates() | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers() | st.none(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None, database=None, derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(KEYS, VALUES, max_size=4), space=st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=2), max_size=2)
)
def test_any_sweep_is_read_or_refused(tmp_path: Path, changes: dict[str, Any], space: dict[str, Any]) -> None:
    for sweep in (grid() | changes, grid(space=space), grid(space=space, **DRAWN) | changes):
        read: Sweep | str
        try:
            read = load(tmp_path, sweep)
        except ConfigError as error:
            read = str(error)
        assert isinstance(read, Sweep) or str(tmp_path) in read
