"""Records of trials on disk, and which points they keep."""

from dataclasses import replace
from pathlib import Path

from ray_s2v.reporting.trials import TrialRecord
from ray_s2v.tuning.records import load_record, load_records, save_record, trial_folder, with_point

RECORD = TrialRecord("trial_001", {"training.learning_rate": 1e-3}, "running", [(0, 3.0), (2, 2.5), (4, 2.25)], "", "/s/trial_001")


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    assert load_records(tmp_path) == []
    assert load_record(trial_folder(tmp_path, "trial_001")) is None
    names = ["trial_001", "trial_002", "trial_010", "trial_1000"]
    for name in reversed(names):
        save_record(trial_folder(tmp_path, name), replace(RECORD, name=name))
    (tmp_path / "trials/trial_003").mkdir()  # that a kill left without a record
    assert [record.name for record in load_records(tmp_path)] == names
    assert load_record(trial_folder(tmp_path, "trial_001")) == RECORD


def test_a_point_is_kept_once() -> None:
    same = RECORD.folder, RECORD.values
    assert with_point(RECORD, *same, 6, 2.0).points == [*RECORD.points, (6, 2.0)]
    assert with_point(RECORD, *same, 2, 9.0) == RECORD, "measured again after a kill"


def test_a_run_in_another_folder_takes_the_place_of_what_came_after_its_beginning() -> None:
    other = {"training.learning_rate": 2e-3}
    now = with_point(RECORD, "/s/trial_001/from_trial_002", other, 2, 1.5)
    assert (now.points, now.values, now.folder) == ([(0, 3.0), (2, 1.5)], other, "/s/trial_001/from_trial_002")
