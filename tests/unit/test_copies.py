"""Copies of checkpoints in a folder and in a bucket of a real server of S3."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from ray_s2v.schema import ConfigError, RunStopped
from ray_s2v.training.contents import CONTENTS
from ray_s2v.training.copies import Copies
from ray_s2v.training.prepare import _checked_copies, _with_absolute_paths
from ray_s2v.training.progress import NoneWhole
from ray_s2v.training.saving import Saving
from ray_s2v.training.starting_point import starting_point
from tests.assignments import assignment
from tests.checkpoints import LORA, assert_of_its_step, checkpoint, state, steps_in
from tests.s3 import s3_server

BUCKET = "copies-of-checkpoints"


@pytest.fixture(scope="module")
def server() -> Iterator[fs.S3FileSystem]:
    with s3_server() as system:
        yield system


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "copies")
    server = request.getfixturevalue("server")
    server.create_dir(BUCKET)
    return f"s3://{BUCKET}/{tmp_path.name}"


def trained(folder: Path, place: str, *steps: int, **settings: Any) -> list[str]:
    """Saves checkpoints as a run does; the notes of it."""
    told: list[dict[str, Any]] = []
    given = assignment(folder, 100, {"copy_to": place} | settings)
    with Saving(given, LORA, told.append) as saving:
        for step in steps:
            saving.write(step, state(step))
    return [record["note"] for record in told if "note" in record]


def names(place: str) -> list[str]:
    return Copies(place)._names()


def test_each_checkpoint_is_copied_and_the_oldest_go(tmp_path: Path, place: str) -> None:
    assert trained(tmp_path / "run", place, 1, 2, 3, 4, keep=2) == []
    assert names(place) == ["step_000003", "step_000004"]
    fetched = Copies(place).fetch_newest(tmp_path / "other", lambda text: None)
    assert fetched == tmp_path / "other/step_000004"
    assert_of_its_step(fetched)
    assert steps_in(tmp_path / "other") == [4]


def test_a_run_whose_folder_is_lost_goes_on_from_its_copy(tmp_path: Path, place: str) -> None:
    run, notes = tmp_path / "run", []
    trained(run, place, 1, 2)
    shutil.rmtree(run)
    given = assignment(run, 100, {"copy_to": place})
    start = starting_point(given.job, notes.append)
    assert start == run / "checkpoints/step_000002" == given.resume_from()
    assert_of_its_step(start)
    assert notes == [f"{run}/checkpoints has no whole checkpoint; step_000002 is fetched from {place}"]
    assert starting_point(given.job, notes.append) == start
    assert len(notes) == 1, "it is there now"


def test_a_copy_takes_the_place_of_damaged_checkpoints(tmp_path: Path, place: str) -> None:
    run, notes = tmp_path / "run", []
    trained(run, place, 1, 2)
    for step in (1, 2):
        (run / f"checkpoints/step_{step:06d}/optimizer.safetensors").unlink()
    given = assignment(run, 100, {"copy_to": place})
    assert starting_point(given.job, notes.append) == run / "checkpoints/step_000002"
    assert_of_its_step(run / "checkpoints/step_000002")
    (run / "checkpoints/step_000002/job.yaml").unlink()
    with pytest.raises(NoneWhole):
        starting_point(assignment(run, 100, {}).job, notes.append)


def test_damaged_and_half_written_copies_are_passed_over(tmp_path: Path, place: str) -> None:
    notes: list[str] = []
    trained(tmp_path / "run", place, 1, 2, 3, 4, keep=4)
    system, root = Copies(place).system, Copies(place).root
    system.delete_file(f"{root}/step_000004/{CONTENTS}")
    with system.open_output_stream(f"{root}/step_000003/optimizer.safetensors") as file:
        file.write(bytes(336))
    system.delete_file(f"{root}/step_000002/job.yaml")
    assert Copies(place).newest() == "step_000003"
    fetched = Copies(place).fetch_newest(tmp_path / "other", notes.append)
    assert fetched == tmp_path / "other/step_000001"
    assert_of_its_step(fetched)
    assert notes[0] == f"the copy {place}/step_000003 is damaged and passed over: optimizer.safetensors is not as it was written"
    assert notes[1].startswith(f"the copy {place}/step_000002 is damaged and passed over: ")
    assert "job.yaml" in notes[1]
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["step_000001"]
    trained(tmp_path / "run", place, 5, keep=2)
    assert names(place) == ["step_000003", "step_000005"], "what is half there goes with the oldest"


def test_contents_that_lead_out_of_the_folder_bring_nothing(tmp_path: Path, place: str) -> None:
    notes: list[str] = []
    trained(tmp_path / "run", place, 1)
    system, root = Copies(place).system, Copies(place).root
    with system.open_input_stream(f"{root}/step_000001/{CONTENTS}") as file:
        content = file.read()
    with system.open_output_stream(f"{root}/step_000001/{CONTENTS}") as file:
        file.write(content.replace(b'"job.yaml"', b'"../../job.yaml"'))
    assert Copies(place).fetch_newest(tmp_path / "a/b", notes.append) is None
    assert "names '../../job.yaml', which no checkpoint holds" in notes[0]
    assert not (tmp_path / "job.yaml").exists()


def test_copies_of_other_runs_are_not_overwritten_without_a_word(tmp_path: Path, place: str) -> None:
    trained(tmp_path / "run", place, 1)
    with pytest.raises(ConfigError, match=r"resume is none, but checkpoint\.copy_to holds step_000001"):
        starting_point(assignment(tmp_path / "new", 100, {"copy_to": place, "resume": "none"}).job, print)


def test_own_copy_comes_before_the_run_that_this_one_began_with(tmp_path: Path, place: str) -> None:
    other = checkpoint(tmp_path / "other", 7)
    trained(tmp_path / "run", place, 9)
    shutil.rmtree(tmp_path / "run")
    given = assignment(tmp_path / "run", 100, {"copy_to": place, "resume": str(other)})
    assert starting_point(given.job, print) == tmp_path / "run/checkpoints/step_000009"


def test_lost_bucket(tmp_path: Path, server: fs.S3FileSystem) -> None:
    place = f"s3://{BUCKET}-lost/run"
    server.create_dir(f"{BUCKET}-lost")
    assert trained(tmp_path / "run", place, 1) == []
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_deletion=True).delete_dir(f"{BUCKET}-lost")
    notes = trained(tmp_path / "run", place, 2, 3, on_failure="continue")
    assert [note.partition(" could not be written: ")[0] for note in notes] == [
        f"the copy of the checkpoint of step {step}" for step in (2, 3)
    ]
    assert all(note.endswith("Training goes on") for note in notes)
    with pytest.raises(RunStopped, match=r"^the copy of the checkpoint of step 4 could not be written: "):
        trained(tmp_path / "run", place, 4)
    assert steps_in(tmp_path / "run/checkpoints") == [2, 3, 4], "what is here stays"


def test_places_are_checked_before_anything_else(tmp_path: Path, server: fs.S3FileSystem) -> None:
    server.create_dir(BUCKET)
    own = tmp_path / "run/checkpoints"
    (tmp_path / "file").write_text("")
    for good in (str(tmp_path / "copies"), f"s3://{BUCKET}/deep/er/"):
        assert _checked_copies(good, own) == good.rstrip("/")
        assert names(good.rstrip("/")) == []
    assert list((tmp_path / "copies").iterdir()) == []
    for wrong, reason in (
        ("hf://datasets/me/faces", "copied to folders"),
        ("ftp://host/x", "cannot be read"),
        (str(own), "is where the run's checkpoints are themselves"),
    ):
        with pytest.raises(ConfigError, match=reason):
            _checked_copies(wrong, own)
    for wrong in (str(tmp_path / "file/copies"), "s3://no-such-bucket-of-ours/x"):
        with pytest.raises(OSError, match=r"\w"):
            _checked_copies(wrong, own)


def test_places_are_told_with_all_other_mistakes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("hf://datasets/me/faces", str(tmp_path / "file/copies")):
        given = assignment(tmp_path / "file/run", 9, {"copy_to": place})
        with pytest.raises(ConfigError) as told:
            _with_absolute_paths(given.job, with_network=True)
        keys = [line.partition(": ")[0] for line in str(told.value).splitlines()]
        assert {"encoders.vae.path", "run.folder", "checkpoint.copy_to"} <= set(keys)
