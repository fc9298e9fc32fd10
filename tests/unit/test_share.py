"""A step's rows among any number of workers: each real one once, every worker as many, what fills up is marked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_s2v.data.share import filled_up, only_fills, slots_with_filling, with_features
from ray_s2v.training.elastic import _countable, scaling
from tests.plans import job

STEPS = 3


def rows(slots: int, workers: int) -> list[dict]:
    planned = [{"step": step, "slot": slot, "clip_id": f"{step}.{slot}"} for step in range(STEPS) for slot in range(slots)]
    return list(filled_up(planned, slots, workers))  # type: ignore[arg-type]


@given(st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None, database=None, derandomize=True)
def test_every_worker_has_as_many_rows_of_each_step_and_the_slots_of_arithmetic(slots: int, workers: int) -> None:
    everything = rows(slots, workers)
    turns = -(-slots // workers)
    assert slots_with_filling(slots, workers) == turns * workers
    for worker in range(workers):
        share = everything[worker::workers]
        assert [(row["step"], row["slot"]) for row in share] == [
            (step, worker + turn * workers) for step in range(STEPS) for turn in range(turns)
        ]
        assert all(only_fills(row) == (row["slot"] >= slots) for row in share)
    assert [row["clip_id"] for row in everything if not only_fills(row)] == [
        f"{step}.{slot}" for step in range(STEPS) for slot in range(slots)
    ]


def test_what_fills_up_has_the_features_of_the_row_before_it_and_cannot_be_read() -> None:
    share = [{**row, **({} if only_fills(row) else {"latents": np.full(2, row["slot"]), "video_error": ""})} for row in rows(4, 3)[1::3]]
    given_rows = list(with_features(share))
    assert [row["slot"] for row in given_rows] == [1, 4] * STEPS
    assert [row["clip_id"] for row in given_rows] == [name for step in range(STEPS) for name in (f"{step}.1", "")]
    assert [row["video_error"] for row in given_rows] == ["", "only fills up"] * STEPS
    assert all((row["latents"] == 1).all() for row in given_rows)


def test_a_refusal_is_no_filling() -> None:
    refusal = {"step": 0, "slot": 0, "refusal": "no encoder"}
    assert not only_fills(refusal)
    assert list(with_features([refusal])) == [refusal]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 1 / 3, 0.9, 2.5, 1.0, 0.5])
def test_ray_counts_shares_of_elastic_workers_as_they_are(share: float) -> None:
    """By dividing floats: three of 0.3 in 0.9 it would count as two."""
    found = _countable(share)
    assert share - 1 / 64 < found <= share
    for number in (1, 2, 3, 7, 10):
        assert (number * found) // found == number
    assert _countable(0.01) == 0.01


def test_ray_is_asked_for_what_the_job_says() -> None:
    fixed = scaling(job(workers=3, worker_cpus=0.3, worker_gpus=0).training)
    assert (fixed.num_workers, fixed.resources_per_worker) == (3, {"CPU": 0.3, "GPU": 0.0})
    elastic = scaling(job(workers={"min": 1, "max": 3}, worker_cpus=0.3, worker_gpus=0.7, resize_every_s=5).training)
    assert (elastic.num_workers, elastic.elastic_resize_monitor_interval_s) == ((1, 3), 5)
    assert elastic.resources_per_worker == {"CPU": 19 / 64, "GPU": 44 / 64}
