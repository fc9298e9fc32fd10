"""Clips as columns, so that a million of them are a few buffers which all processes of a machine share, and none unpacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_s2v.schema import Bucket, Clip, Media

_TEXT = pa.large_string()  # the small kind ends at 2 GB a column
_MEDIA = pa.struct({"place": _TEXT, "digest": _TEXT})
_COLUMNS = pa.schema(
    {
        "clip_id": _TEXT,
        "source": _TEXT,
        "video": _MEDIA,
        "audio": _MEDIA,
        "pose": _MEDIA,
        "captions": pa.large_list(_TEXT),
        "num_frames": pa.int64(),
        "audio_s": pa.float64(),
        "bucket": pa.struct({name: pa.int64() for name in Bucket._fields}),
        "scaled_width": pa.int64(),
        "scaled_height": pa.int64(),
    }
)
assert _COLUMNS.names == [field.name for field in fields(Clip)]
_BATCH = 1024  # clips unpacked at a time


@dataclass(frozen=True, eq=False)
class ClipTable:
    """Clips by their numbers 0, 1, ..."""

    table: pa.Table

    @staticmethod
    def of(clips: Sequence[Clip]) -> ClipTable:
        return ClipTable(pa.table({name: [getattr(clip, name) for clip in clips] for name in _COLUMNS.names}, schema=_COLUMNS))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Clip]:
        for batch in self.table.to_batches(max_chunksize=_BATCH):
            yield from map(_clip, batch.to_pylist())

    def part(self, numbers: NDArray[np.int64]) -> ClipTable:
        """The clips of these numbers, in this order."""
        return ClipTable(self.table.take(numbers))


def _clip(row: dict[str, Any]) -> Clip:
    media = {name: Media(**row[name]) if row[name] else None for name in ("video", "audio", "pose")}
    return Clip(**(row | media | {"captions": tuple(row["captions"]), "bucket": Bucket(**row["bucket"])}))
