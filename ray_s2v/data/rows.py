"""A row with arrays to an Arrow table of one row and back, without copying the arrays.

Ray Data would copy each array into a tensor column and out of it; of decoded pixels, a hundred megabytes each way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

Row = dict[str, Any]


def to_table(row: Mapping[str, Any]) -> pa.Table:
    """One row: numbers and texts as they are, arrays as binary with the type and all but the first of their dimensions beside them."""
    columns, fields = [], []
    for name, value in row.items():
        column, described = _binary(value) if isinstance(value, np.ndarray) else (pa.array([value]), None)
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata=described))
    return pa.table(columns, schema=pa.schema(fields))


def to_row(table: pa.Table) -> Row:
    """The row of a table of one row; its arrays are read-only views into the table."""
    assert table.num_rows == 1
    return {field.name: _value(field, column.chunk(0)) for field, column in zip(table.schema, table.columns, strict=True)}


def _binary(array: np.ndarray) -> tuple[pa.Array, dict[str, str]]:
    array = np.ascontiguousarray(array)
    ends = pa.py_buffer(np.array([0, array.nbytes], np.int64))
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(array)])
    return column, {"dtype": array.dtype.name, "shape": json.dumps(array.shape[1:])}


def _value(field: pa.Field, column: pa.Array) -> Any:
    if not field.metadata or b"dtype" not in field.metadata:
        return column[0].as_py()
    _, ends, data = column.buffers()  # a scalar's buffer would be a copy
    start, end = np.frombuffer(ends, np.int64)[column.offset : column.offset + 2]
    shape = json.loads(field.metadata[b"shape"])
    return np.frombuffer(data.slice(int(start), int(end - start)), field.metadata[b"dtype"].decode()).reshape(-1, *shape)
