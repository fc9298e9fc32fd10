"""Each worker is given the rows that the plan's arithmetic gives it, and notices any other."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_s2v.data.rows import to_row, to_table
from ray_s2v.data.stages import EncodeSpeech, EncodeVideo
from ray_s2v.data.stream import worker_rows

SLOTS, FIRST, END = 4, 3, 6
SHARES = [(worker, workers) for workers in (1, 2, 4) for worker in range(workers)]


def tables(first_step: int = FIRST) -> list[pa.Table]:
    """Rows of the plan as Ray Data hands them out."""
    return [
        to_table({"step": step, "slot": slot, "latents": np.full((2, 3), 10 * step + slot, np.float16)})
        for step in range(first_step, END)
        for slot in range(SLOTS)
    ]


@pytest.mark.parametrize(("worker", "workers"), SHARES)
def test_share_in_order_passes_untouched(worker: int, workers: int) -> None:
    share = tables()[worker::workers]
    passed = list(worker_rows(share, range(FIRST, END), SLOTS, worker, workers))
    assert len(passed) == (END - FIRST) * SLOTS // workers
    for row, table in zip(passed, share, strict=True):
        assert row.keys() == {"step", "slot", "latents"}
        assert (row["step"], row["slot"]) == (table["step"][0].as_py(), table["slot"][0].as_py())
        assert (row["latents"] == 10 * row["step"] + row["slot"]).all()
        assert np.shares_memory(row["latents"], to_row(table)["latents"])


@pytest.mark.parametrize(("worker", "workers"), SHARES)
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_row_that_was_dropped_is_noticed_at_once(worker: int, workers: int, lost: int) -> None:
    """What Ray Data would do if an earlier stage dropped a row: all later ones come to another worker."""
    everything = tables()
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
    with pytest.raises(AssertionError, match=f"worker {worker} of {workers}"):
        next(worker_rows(tables()[other::workers], range(FIRST, END), SLOTS, worker, workers))


@pytest.mark.parametrize("first_step", [FIRST - 1, FIRST + 1])
def test_rows_of_another_first_step_are_noticed(first_step: int) -> None:
    with pytest.raises(AssertionError, match="worker 0 of 2"):
        next(worker_rows(tables(first_step), range(FIRST, END), SLOTS, 0, 2))


def test_rows_are_taken_as_they_are_asked_for() -> None:
    taken = []

    def counted() -> Iterator[pa.Table]:
        for table in tables():
            taken.append(table)
            yield table

    given = worker_rows(counted(), range(FIRST, END), SLOTS, 0, 1)
    next(given)
    next(given)
    assert len(taken) == 2


def test_rows_missing_at_the_end_are_noticed() -> None:
    given = worker_rows(tables()[:-SLOTS], range(FIRST, END), SLOTS, 0, 1)
    with pytest.raises(AssertionError, match="was given no row"):
        list(given)


def test_rows_after_the_last_are_noticed() -> None:
    given = worker_rows(tables(), range(FIRST, END - 1), SLOTS, 0, 1)
    with pytest.raises(AssertionError, match="was given no row"):
        list(given)


@pytest.mark.parametrize(("worker", "workers"), SHARES)
def test_held_out_rows_come_before_the_plans(worker: int, workers: int) -> None:
    """As rows of a step of their own, of as many slots as there are of them."""
    held_out = [to_table({"step": 0, "slot": slot, "latents": np.zeros((2, 3), np.float16)}) for slot in range(8)]
    given = iter([*held_out, *tables()][worker::workers])
    first = list(worker_rows(islice(given, 8 // workers), range(1), 8, worker, workers))
    assert [row["slot"] for row in first] == list(range(worker, 8, workers))
    assert next(worker_rows(given, range(FIRST, END), SLOTS, worker, workers))["step"] == FIRST


class Loaded(EncodeSpeech):
    """An encoder that has loaded, and fails where it has to encode."""

    def load(self, path: str) -> None:  # type: ignore[override]
        pass

    def encoded(self, row: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


def test_an_encoder_that_cannot_load_says_so_in_each_rows_place(tmp_path: Path) -> None:
    pixels = to_table({"step": 3, "slot": 1, "caption": "a face", "pixels": np.zeros((1, 64, 64, 3), np.uint8), "waveform": np.zeros(9)})
    refused = EncodeVideo("fp16", path=str(tmp_path))(pixels)
    row = to_row(refused)
    assert row.keys() == {"step", "slot", "refusal"}
    assert (row["step"], row["slot"]) == (3, 1)
    assert "cannot load AutoencoderKLWan" in row["refusal"]
    assert Loaded("fp16", path="-")(refused) is refused, "a later stage must not touch the row"
    (given,) = worker_rows([refused], range(3, 4), SLOTS, 1, SLOTS)
    assert given == row, "it keeps its place in the plan"


def test_rows_that_an_encoder_has_no_work_with_pass_as_they_are(tmp_path: Path) -> None:
    """As where the store holds the latents; also where the encoder could not be loaded."""
    stored = to_table({"step": 3, "slot": 1, "latents": np.zeros((2, 3), np.float16)})
    assert Loaded("fp16", path="-")(stored) is stored
    assert EncodeVideo("fp16", path=str(tmp_path))(stored) is stored
    with pytest.raises(NotImplementedError):
        Loaded("fp16", path="-")(to_table({"step": 3, "slot": 1, "waveform": np.zeros(9, np.float32)}))
