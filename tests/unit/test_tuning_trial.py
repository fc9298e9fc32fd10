"""Where a trial's run lies, what it has measured before, and how its failure is told."""

import json
from pathlib import Path

import pytest

from ray_s2v.config.job import Job
from ray_s2v.job_file import dump_job
from ray_s2v.schema import RunStopped
from ray_s2v.tuning.trial import measured_before, messages, place_of_run
from tests.jobs import SETTINGS, changed

VALUES = {"training.learning_rate": 1e-3}


def checkpoint_of(run: Path, step: int, folder: Path) -> Path:
    """What Tune hands a trial: a copy of a run's checkpoint."""
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(dump_job(Job.model_validate(changed({"run.folder": str(run)}))))
    (folder / "progress.json").write_text(json.dumps({"step": step, "plan": "p"}))
    return folder


def test_a_trial_begins_in_its_own_folder(tmp_path: Path) -> None:
    home = tmp_path / "trials/trial_001"
    assert place_of_run(home, None, VALUES) == {"run.folder": str(home)}


def test_a_trial_goes_on_where_its_checkpoint_was_made(tmp_path: Path) -> None:
    home = tmp_path / "trials/trial_001"
    for number, run in enumerate([home, home / "from_trial_002_step_000004_12345678"]):
        given = checkpoint_of(run, 8, tmp_path / f"given_{number}")
        assert place_of_run(home, given, VALUES) == {"run.folder": str(run), "checkpoint.resume": "latest"}


def test_anothers_checkpoint_begins_a_run_below_its_own(tmp_path: Path) -> None:
    home = tmp_path / "trials/trial_001"
    donors = [tmp_path / "trials/trial_0011", tmp_path / "trials/trial_0011/from_trial_003_step_000002_12345678"]
    for number, donor in enumerate(donors):  # whose name begins as this trial's
        given = checkpoint_of(donor, 4, tmp_path / f"given_{number}")
        found = place_of_run(home, given, VALUES)
        assert found["checkpoint.resume"] == str(given)
        assert Path(found["run.folder"]).parent == home
        assert Path(found["run.folder"]).name.startswith("from_trial_0011_step_000004_")
        assert found == place_of_run(home, given, dict(VALUES)), "after a kill it goes on in the same"
        assert found != place_of_run(home, given, {"training.learning_rate": 2e-3}), "and not in that of other values"


def test_half_a_line_is_no_measurement(tmp_path: Path) -> None:
    assert measured_before(tmp_path) == []
    (tmp_path / "held_out.jsonl").write_text('{"step": 0, "loss": 3.0}\n{"step": 2, "loss": 2.5}\n{"step": 4, "lo')
    assert [line["step"] for line in measured_before(tmp_path)] == [0, 2]


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    job = Job.model_validate(SETTINGS)  # its files are not there
    with pytest.raises(RunStopped, match=r"(?s)encoders\.vae\.path: .*model\.path: "):
        list(messages(job, tmp_path))


def test_a_run_that_dies_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunStopped, match="ended with code 1; what it said last is in"):
        list(messages(Job.model_validate(SETTINGS), tmp_path))
