"""Rows with arrays as Arrow tables of one row, and back."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_s2v.data.rows import to_row, to_table

ROW = {
    "step": 3,
    "noise_seed": 2**63 - 1,
    "caption": "ein Gesicht 顔",
    "noise_level": 0.1,
    "drop_audio": True,
    "pixels": np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4),
    "latents": np.linspace(-9, 9, 12, dtype=np.float16).reshape(3, 2, 2),
    "waveform": np.linspace(-1, 1, 5, dtype=np.float32),
    "empty": np.zeros((0, 7), np.float32),
}


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(
        np.array_equal(a[name], b[name]) and getattr(a[name], "dtype", type(a[name])) == getattr(b[name], "dtype", type(b[name]))
        for name in a
    )


def test_row_comes_back_with_types_shapes_and_order() -> None:
    assert same(to_row(to_table(ROW)), ROW)


def test_arrays_that_are_views_come_back_whole() -> None:
    whole = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    for view in (whole.transpose(2, 0, 1), whole[1:, ::2], whole[..., ::-1]):
        assert same(to_row(to_table({"a": view})), {"a": view})


def test_nothing_is_copied_on_the_way() -> None:
    array = np.zeros((1000, 1000), np.float32)
    assert np.shares_memory(to_row(to_table({"a": array}))["a"], array)


def test_slice_of_a_table_is_the_row_it_says() -> None:
    """Ray Data hands out slices of larger tables."""
    tables = [to_table({"step": i, "a": np.full((2, 3), i, np.int16)}) for i in range(3)]
    joined = pa.concat_tables(tables).combine_chunks()
    for i in range(3):
        assert same(to_row(joined.slice(i, 1)), {"step": i, "a": np.full((2, 3), i, np.int16)})


def test_row_survives_parquet() -> None:
    buffer = io.BytesIO()
    pq.write_table(to_table(ROW), buffer)
    assert same(to_row(pq.ParquetFile(pa.BufferReader(buffer.getvalue())).read(use_threads=False)), ROW)


def test_more_than_a_row_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        to_row(pa.table({"a": [1, 2]}))
