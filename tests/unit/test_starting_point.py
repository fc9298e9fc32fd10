"""Where a run goes on: never from less than what has been done without a word, and never without features for the rest of it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ray_s2v.config.job import Job
from ray_s2v.data.features import KINDS, Features
from ray_s2v.data.plan import Plan
from ray_s2v.data.store import save
from ray_s2v.job_file import dump_job
from ray_s2v.schema import ConfigError
from ray_s2v.training.prepare import _source_of_features
from ray_s2v.training.progress import Assignment
from ray_s2v.training.starting_point import check_same_network, starting_point
from tests import checkpoints, plans
from tests.spawn.zero_runs import tiny_job


def checkpoint(run: Path, step: int) -> Path:
    return checkpoints.checkpoint(run / "checkpoints", step)


def start(given: Job) -> Path | None:
    return starting_point(given, refuse_to_speak)


def refuse_to_speak(told: str) -> None:
    raise AssertionError(told)


def job(run: Path, resume: str) -> Job:
    base = tiny_job(2, 1)
    return base.model_copy(
        update={
            "run": base.run.model_copy(update={"folder": str(run)}),
            "checkpoint": base.checkpoint.model_copy(update={"resume": resume}),
        }
    )


def test_latest_is_the_newest_or_the_beginning(tmp_path: Path) -> None:
    assert start(job(tmp_path, "latest")) is None
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 12)
    (tmp_path / "checkpoints" / ".partial-step_000015").mkdir()
    assert start(job(tmp_path, "latest")) == newest


def test_none_refuses_to_overwrite(tmp_path: Path) -> None:
    assert start(job(tmp_path, "none")) is None
    checkpoint(tmp_path, 9)
    with pytest.raises(ConfigError, match="holds 1 checkpoints"):
        start(job(tmp_path, "none"))


def test_another_runs_checkpoint_begins_a_run_and_is_overtaken_by_its_own(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", 30)
    run = tmp_path / "run"
    assert start(job(run, str(other))) == other
    own = checkpoint(run, 33)
    assert start(job(run, str(other))) == own


def test_going_back_over_own_work_is_refused(tmp_path: Path) -> None:
    older, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 12)
    with pytest.raises(ConfigError, match="holds newer ones"):
        start(job(tmp_path, str(older)))
    assert start(job(tmp_path, str(newest))) == newest


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no checkpoint"):
        start(job(tmp_path, str(tmp_path)))
    (tmp_path / "progress.json").write_text("{")
    with pytest.raises(ConfigError, match="is no checkpoint"):
        start(job(tmp_path / "run", str(tmp_path)))


def test_restarted_workers_take_the_runs_newest_checkpoint(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", 30)
    plan = Plan.of(plans.job(slots=4), plans.many(8, 200, plans.BUCKETS[3]))
    features = Features("", streams=True, vae="vae", speech="speech", text="text", dtype="fp16")
    assignment = Assignment(job(tmp_path / "run", str(other)), plan, [], plan.fingerprint(), features, 60, other)
    assert (assignment.resume_from(), assignment.first_step()) == (other, 30)
    own = checkpoint(tmp_path / "run", 36)
    assert (assignment.resume_from(), assignment.first_step()) == (own, 36)
    afresh = replace(assignment, job=job(tmp_path / "third", "latest"), start_from=None)
    assert (afresh.resume_from(), afresh.first_step()) == (None, 0)


def test_an_adapter_of_another_kind_is_not_gone_on_with(tmp_path: Path) -> None:
    before = job(tmp_path, "latest")
    folder = checkpoint(tmp_path, 9)
    (folder / "job.yaml").write_text(dump_job(before))
    check_same_network(before, folder)
    other = before.model_copy(
        update={"lora": before.lora.model_copy(update={"rank": 8}), "model": before.model.model_copy(update={"path": "x"})}
    )
    with pytest.raises(ConfigError, match=r"model\.path was -, is x; lora\.rank was 16, is 8"):
        check_same_network(other, folder)
    more_steps = before.model_copy(
        update={"training": before.training.model_copy(update={"steps": 99}), "zero": before.zero.model_copy(update={"stage": 3})}
    )
    check_same_network(more_steps, folder)


STEPS = range(6)


def planned(store: Path, source: str) -> tuple[Job, Plan, Features]:
    """A run of six steps, whose 24 rows want 3 captions, 8 sounds and some windows."""
    base = plans.job(slots=4, continuation=0.0, dropout=plans.NO_DROPOUT)
    here = base.model_copy(update={"data": base.data.model_copy(update={"features": source, "store": str(store)})})
    clips = [replace(clip, captions=(f"caption {number % 3}",)) for number, clip in enumerate(plans.many(8, 100, plans.BUCKETS[3]))]
    return here, Plan.of(here, clips), Features(str(store), streams=True, vae="vae", speech="speech", text="text", dtype="fp16")


def fill(plan: Plan, features: Features, steps: range) -> dict[str, int]:
    """Puts something for every row of some steps into the store; how many of each kind."""
    keys = {kind: {features.key(kind, row) for row in plan.rows(steps.start, steps.stop)} for kind in KINDS}
    for kind in KINDS:
        for key in keys[kind]:
            save(features.store, kind, key, [{"a": np.zeros(1, np.float16)}])
    return {kind: len(keys[kind]) for kind in KINDS}


def test_features_come_from_where_the_job_says(tmp_path: Path) -> None:
    for source, store, streams in (("stream", "", True), ("auto", str(tmp_path), True)):
        given, plan, features = planned(tmp_path, source)
        assert _source_of_features(given, plan.rows(0, 6), features) == replace(features, store=store, streams=streams)
    fill(plan, features, STEPS)
    for source, store, streams in (("stream", "", True), ("auto", str(tmp_path), False), ("store", str(tmp_path), False)):
        given, plan, features = planned(tmp_path, source)
        assert _source_of_features(given, plan.rows(0, 6), features) == replace(features, store=store, streams=streams)


def test_store_that_lacks_some_of_the_rest_is_refused_with_how_many(tmp_path: Path) -> None:
    given, plan, features = planned(tmp_path, "store")
    windows = len({features.key("video", row) for row in plan.rows(STEPS.start, STEPS.stop)})
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path} lacks features for the rest of the run: ")) as caught:
        _source_of_features(given, plan.rows(0, 6), features)
    for count in ("3 of text", "8 of speech", f"{windows} of video"):
        assert count in str(caught.value)
    assert windows > 8

    there = fill(plan, features, range(2, 6))
    with pytest.raises(ConfigError, match=f"{windows - there['video']} of video"):
        _source_of_features(given, plan.rows(0, 6), features)
    assert not _source_of_features(given, plan.rows(2, 6), features).streams, "what lies behind is not wanted any more"
    auto = planned(tmp_path, "auto")[0]
    assert _source_of_features(auto, plan.rows(1, 6), features).streams
    assert not _source_of_features(auto, plan.rows(2, 6), features).streams
