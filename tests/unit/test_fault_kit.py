"""The fault kit finds what it looks for: steps done again, other losses or clips, clips double and missing."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.faults import assert_same_history, assert_went_on, lives, repeated, surviving
from tests.cluster.soak import CLIPS, EPOCH, double_and_missing

A_STEP = CLIPS // EPOCH  # clips


def line(step: int, **changes: Any) -> dict[str, Any]:
    clips = [f"clip {step % EPOCH * A_STEP + slot}" for slot in range(A_STEP)]
    return {"step": step, "clip_ids": clips, "losses": [step + slot / 10 for slot in range(A_STEP)], "unreadable": {}, **changes}


def written(folder: Path, *lines: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def undisturbed(tmp_path: Path) -> Path:
    return written(tmp_path / "undisturbed", *map(line, range(EPOCH)))


def test_a_run_that_went_back_twice(tmp_path: Path, undisturbed: Path) -> None:
    run = written(tmp_path / "run", *map(line, [0, 1, 2, 1, 2, 3, 2, 3, 4, 5]))
    assert lives(run) == [range(3), range(1, 4), range(2, 6)]
    assert repeated(run) == [1, 2, 2, 3]
    assert list(surviving(run)) == [0, 1, 2, 3, 4, 5]
    assert_same_history(run, undisturbed)
    assert double_and_missing(run) == (0, 0)


@pytest.mark.parametrize(
    "last",
    [
        [],
        [line(5), line(6)],
        [line(5, losses=[5.0, 5.1, 5.2, 5.4])],
        [line(5, losses=[5.0, 5.1, 5.2, 5.3001]), line(5)],
        [line(5, clip_ids=line(4)["clip_ids"])],
        [line(5, unreadable={"clip 20": "lost"})],
    ],
    ids=["a step missing", "one too many", "another loss", "another loss that was undone", "other clips", "a clip not read"],
)
def test_what_is_not_the_undisturbed_history(tmp_path: Path, undisturbed: Path, last: list[dict[str, Any]]) -> None:
    run = written(tmp_path / "run", *map(line, range(5)), *last)
    with pytest.raises(AssertionError):
        assert_same_history(run, undisturbed)


def test_double_and_missing_clips_are_counted(tmp_path: Path) -> None:
    swapped = line(3, clip_ids=[*line(3)["clip_ids"][:-1], "clip 0"])
    run = written(tmp_path / "run", *map(line, [0, 1, 2]), swapped, *map(line, range(4, 2 * EPOCH - 1)))
    assert double_and_missing(run) == (1, 1 + A_STEP)


@pytest.mark.parametrize(
    ("steps", "times", "is_right"),
    [
        ([0, 1, 2, 3, 4, 5, 6], 0, True),
        ([0, 1, 2, 3, 4, 3, 4, 5], 1, True),
        ([0, 1, 2, 3, 4, 5, 6, 3, 4], 1, True),  # that of step 6 was being written
        ([0, 1, 2, 3, 4, 3, 4, 5], 0, False),  # nobody killed it
        ([0, 1, 2, 3, 4, 2, 3, 4], 1, False),  # there was no checkpoint
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4], 1, False),  # there were newer ones
        ([0, 1, 2, 5, 6], 1, False),
    ],
)
def test_a_life_begins_at_a_checkpoint(tmp_path: Path, steps: list[int], times: int, is_right: bool) -> None:
    run = written(tmp_path / "run", *map(line, steps))
    with nullcontext() if is_right else pytest.raises(AssertionError):
        assert_went_on(run, times)
