"""Where a run goes on: never from less than what has been done without a word."""

import json
from pathlib import Path

import pytest

from ray_s2v.config.job import Job
from ray_s2v.job_file import dump_job
from ray_s2v.schema import ConfigError
from ray_s2v.training.prepare import check_same_network, starting_point
from ray_s2v.training.progress import Assignment
from tests.spawn.zero_runs import tiny_job


def checkpoint(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / f"step_{step:06d}"
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"step": step, "plan": "p"}))
    return folder


def job(run: Path, resume: str) -> Job:
    base = tiny_job(2, 1)
    return base.model_copy(
        update={
            "run": base.run.model_copy(update={"folder": str(run)}),
            "checkpoint": base.checkpoint.model_copy(update={"resume": resume}),
        }
    )


def test_latest_is_the_newest_or_the_beginning(tmp_path: Path) -> None:
    assert starting_point(job(tmp_path, "latest")) is None
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 12)
    (tmp_path / "checkpoints" / ".partial-step_000015").mkdir()
    assert starting_point(job(tmp_path, "latest")) == newest


def test_none_refuses_to_overwrite(tmp_path: Path) -> None:
    assert starting_point(job(tmp_path, "none")) is None
    checkpoint(tmp_path, 9)
    with pytest.raises(ConfigError, match="holds 1 checkpoints"):
        starting_point(job(tmp_path, "none"))


def test_another_runs_checkpoint_begins_a_run_and_is_overtaken_by_its_own(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", 30)
    run = tmp_path / "run"
    assert starting_point(job(run, str(other))) == other
    own = checkpoint(run, 33)
    assert starting_point(job(run, str(other))) == own


def test_going_back_over_own_work_is_refused(tmp_path: Path) -> None:
    older, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 12)
    with pytest.raises(ConfigError, match="holds newer ones"):
        starting_point(job(tmp_path, str(older)))
    assert starting_point(job(tmp_path, str(newest))) == newest


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no checkpoint"):
        starting_point(job(tmp_path, str(tmp_path)))
    (tmp_path / "progress.json").write_text("{")
    with pytest.raises(ConfigError, match="is no checkpoint"):
        starting_point(job(tmp_path / "run", str(tmp_path)))


def test_restarted_workers_take_the_runs_newest_checkpoint(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", 30)
    assignment = Assignment(job(tmp_path / "run", str(other)), None, 60, other)  # type: ignore[arg-type]
    assert assignment.first_step() == 30
    checkpoint(tmp_path / "run", 36)
    assert assignment.first_step() == 36


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
