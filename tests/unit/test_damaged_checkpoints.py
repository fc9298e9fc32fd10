"""Damaged checkpoints are never gone on from: the one before is taken, and where there is none, the run is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from ray_s2v.schema import ConfigError
from ray_s2v.training.checkpoint import load_state
from ray_s2v.training.contents import CONTENTS, as_text, damage, measured
from ray_s2v.training.progress import NoneWhole, newest_whole
from ray_s2v.training.starting_point import starting_point
from tests.assignments import assignment
from tests.checkpoints import assert_of_its_step, checkpoint, steps_in

WEIGHTS = "optimizer.safetensors"


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])


def flip(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def remove(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def remove_contents(folder: Path) -> None:
    (folder / CONTENTS).unlink()


def truncate_contents(folder: Path) -> None:
    (folder / CONTENTS).write_bytes((folder / CONTENTS).read_bytes()[:-10])


def put_folder(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


DAMAGES: dict[Callable[[Path], None], str] = {
    truncate: f"{WEIGHTS} has 326 bytes of 336",
    flip: f"{WEIGHTS} is not as it was written",
    remove: f"{WEIGHTS} is missing",
    remove_contents: "it has no contents.json",
    truncate_contents: "contents.json is not as it was written",
    put_folder: f"{WEIGHTS} is missing",
}
every_damage = pytest.mark.parametrize(("harm", "reason"), DAMAGES.items(), ids=[harm.__name__ for harm in DAMAGES])


def run(tmp_path: Path, *steps: int) -> tuple[Path, list[Path]]:
    folder = tmp_path / "run/checkpoints"
    return folder, [checkpoint(folder, step) for step in steps]


@every_damage
def test_the_one_before_is_taken_and_that_is_said(tmp_path: Path, harm: Callable[[Path], None], reason: str) -> None:
    folder, (_, good, newest) = run(tmp_path, 1, 2, 3)
    harm(newest)
    notes: list[str] = []
    assert newest_whole(folder, notes.append) == good
    assert notes == [f"damaged checkpoints are passed over: step_000003 ({reason}). The newest whole one is step_000002"]
    given = assignment(tmp_path / "run", 9, {})
    assert starting_point(given.job, notes.append) == good == given.resume_from(), "the driver and the workers agree"
    assert given.first_step() == 2
    assert steps_in(folder) == [1, 2, 3], "it is left in its place"


@every_damage
def test_named_one_is_refused(tmp_path: Path, harm: Callable[[Path], None], reason: str) -> None:
    other = checkpoint(tmp_path / "other", 4)
    harm(other)
    given = assignment(tmp_path / "run", 9, {"resume": str(other)})
    with pytest.raises(ConfigError) as told:
        starting_point(given.job, print)
    assert str(told.value) == f"checkpoint.resume: {other} is damaged: {reason}"


def test_when_all_are_damaged_the_run_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    folder, places = run(tmp_path, 1, 2, 3)
    for place, harm in zip(places, (flip, truncate, remove_contents), strict=True):
        harm(place)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for resume in ("latest", str(checkpoint(tmp_path / "other", 4))):
        with pytest.raises(NoneWhole) as told:
            starting_point(assignment(tmp_path / "run", 9, {"resume": resume}).job, print)
        assert str(told.value).splitlines() == [
            f"{folder}: every checkpoint is damaged; none was changed:",
            "  step_000003 (it has no contents.json)",
            f"  step_000002 ({WEIGHTS} has 326 bytes of 336)",
            f"  step_000001 ({WEIGHTS} is not as it was written)",
            "Put a whole copy in the place of one, remove them all to begin anew, or take a new run.folder",
        ]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_damaged_ones_do_not_count_as_kept_and_are_replaced(tmp_path: Path) -> None:
    folder, (_, second, third) = run(tmp_path, 1, 2, 3)
    truncate(second)
    flip(third)
    assert newest_whole(folder, print) == folder / "step_000001"
    checkpoint(folder, 2, keep=2)
    assert steps_in(folder) == [1, 2, 3], "what lies beyond is not worth the first"
    checkpoint(folder, 3, keep=2)
    assert steps_in(folder) == [2, 3]
    for path in (second, third):
        assert_of_its_step(path)


def test_one_that_lies_beyond_never_takes_the_place_of_a_whole_one(tmp_path: Path) -> None:
    """As where it is damaged and checkpoints are made more often than before."""
    folder, (_, beyond) = run(tmp_path, 10, 20)
    flip(beyond)
    new = checkpoint(folder, 15, keep=1)
    assert steps_in(folder) == [15, 20]
    assert newest_whole(folder, print) == new


def test_newer_ones_that_are_damaged_do_not_stand_in_the_way(tmp_path: Path) -> None:
    _, (older, newest) = run(tmp_path, 1, 2)
    given = assignment(tmp_path / "run", 9, {"resume": str(older)})
    with pytest.raises(ConfigError, match=r"holds newer ones \(step_000002\)"):
        starting_point(given.job, print)
    flip(newest)
    assert starting_point(given.job, print) == older


WRONG = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "a list": b"[]",
    "a number": b"3",
    "deep": b"[" * 100_000,
    "a negative size": b'{"a": {"bytes": -1, "sha256": "%s"}}' % (b"0" * 64),
    "a short hash": b'{"a": {"bytes": 1, "sha256": "0"}}',
    "more than that": b'{"a": {"bytes": 1, "sha256": "%s", "more": 1}}' % (b"0" * 64),
    "a huge size": b'{"a": {"bytes": 1e999, "sha256": "%s"}}' % (b"0" * 64),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_contents_that_say_something_else(tmp_path: Path, content: bytes) -> None:
    place = checkpoint(tmp_path, 1)
    (place / CONTENTS).write_bytes(content)
    assert damage(place) == "contents.json is not as it was written"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "ema/x/y", "", ".", "..", "ema/..", ".hidden", "a\nb"])
def test_contents_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    place = checkpoint(tmp_path, 1)
    files = measured(place)
    (place / CONTENTS).write_bytes(as_text(files | {name: files["progress.json"]}))
    assert damage(place) == f"contents.json names {name!r}, which no checkpoint holds"


def test_contents_that_lack_a_file(tmp_path: Path) -> None:
    place = checkpoint(tmp_path, 1)
    files = json.loads((place / CONTENTS).read_bytes())
    del files["optimizer.safetensors"], files["job.yaml"]
    (place / CONTENTS).write_text(json.dumps(files))
    assert damage(place) == "contents.json lacks job.yaml, optimizer.safetensors"


def test_tensors_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    """Made by hand, with contents that agree."""
    place = checkpoint(tmp_path, 1)
    (place / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="step_000001: the optimizer's moments cannot be read: "):
        load_state(place)
    save_file({}, place / WEIGHTS)
    assert load_state(place).moments == {}
