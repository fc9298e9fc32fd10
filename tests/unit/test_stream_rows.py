"""Each worker is given the rows that the plan's arithmetic gives it, and notices any other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_s2v.data.stream import EncodeSpeech, EncodeVideo, worker_rows

SLOTS, FIRST, END = 4, 3, 6
SHARES = [(worker, workers) for workers in (1, 2, 4) for worker in range(workers)]


def rows(first_step: int = FIRST) -> list[dict[str, Any]]:
    """Rows of the plan as Ray hands them out, with NumPy's numbers."""
    return [
        {"step": np.int64(step), "slot": np.int64(slot), "latents": object()} for step in range(first_step, END) for slot in range(SLOTS)
    ]


@pytest.mark.parametrize(("worker", "workers"), SHARES)
def test_share_in_order_passes_untouched(worker: int, workers: int) -> None:
    share = rows()[worker::workers]
    passed = list(worker_rows(share, range(FIRST, END), SLOTS, worker, workers))
    assert len(passed) == (END - FIRST) * SLOTS // workers
    assert all(a is b for a, b in zip(passed, share, strict=True))


@pytest.mark.parametrize(("worker", "workers"), SHARES)
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_row_that_was_dropped_is_noticed_at_once(worker: int, workers: int, lost: int) -> None:
    """What Ray Data would do if an earlier stage dropped a row: all later ones come to another worker."""
    everything = rows()
    del everything[lost]
    share = everything[worker::workers]
    given = worker_rows(share, range(FIRST, END), SLOTS, worker, workers)
    in_order = sum(1 for position in range(worker, len(everything), workers) if position < lost)
    for _ in range(in_order):
        next(given)
    with pytest.raises(AssertionError, match=f"worker {worker} of {workers}"):
        next(given)


@pytest.mark.parametrize(("worker", "workers"), SHARES[1:])
def test_anothers_share_is_noticed(worker: int, workers: int) -> None:
    other = (worker + 1) % workers
    with pytest.raises(AssertionError):
        next(worker_rows(rows()[other::workers], range(FIRST, END), SLOTS, worker, workers))


@pytest.mark.parametrize("first_step", [FIRST - 1, FIRST + 1])
def test_rows_of_another_first_step_are_noticed(first_step: int) -> None:
    with pytest.raises(AssertionError):
        next(worker_rows(rows(first_step), range(FIRST, END), SLOTS, 0, 2))


def test_rows_are_taken_as_they_are_asked_for() -> None:
    taken = []

    def counted() -> Iterator[dict[str, Any]]:
        for row in rows():
            taken.append(row)
            yield row

    given = worker_rows(counted(), range(FIRST, END), SLOTS, 0, 1)
    next(given)
    next(given)
    assert len(taken) == 2


def test_rows_missing_at_the_end_are_noticed() -> None:
    given = worker_rows(rows()[:-SLOTS], range(FIRST, END), SLOTS, 0, 1)
    with pytest.raises(AssertionError, match="was given no row"):
        list(given)


def test_an_encoder_that_cannot_load_says_so_in_each_rows_place(tmp_path: Path) -> None:
    block = {"step": [np.int64(3)], "slot": [np.int64(1)], "pixels": [np.zeros((1, 64, 64, 3), np.uint8)]}
    refused = EncodeVideo(path=str(tmp_path))(block)
    assert set(refused) == {"step", "slot", "refusal"}
    assert "cannot load AutoencoderKLWan" in refused["refusal"][0]
    later = EncodeSpeech.__new__(EncodeSpeech)  # one that has loaded; it must not touch the row
    later.refusal = ""
    assert later(refused) == refused
