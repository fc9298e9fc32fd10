"""What has been found out of a source's files, as one Parquet file a source: taken again as long as the files stay as they are."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_s2v.data.facts import Facts
from ray_s2v.data.found import Found, Part
from ray_s2v.media.audio import SoundFacts
from ray_s2v.media.probe import VideoFacts
from ray_s2v.schema import DataError
from ray_s2v.storage import file_system, open_file, scheme_of

VERSION = "1"  # of what is examined and how; where a change counts it up, everything is examined anew
_VERSION_KEY = b"ray_s2v.manifest"

_TEXT = pa.large_string()  # the small kind ends at 2 GB a column
_PARTS = ("video", "audio", "pose", "caption")
_FOUND = {"name": _TEXT} | {
    f"{part}.{column}": kind for part in _PARTS for column, kind in (("place", _TEXT), ("size", pa.int64()), ("stamp", pa.int64()))
}
_PICTURES = {
    "pictures.width": pa.int64(),
    "pictures.height": pa.int64(),
    "pictures.num_frames": pa.int64(),
    "pictures.video_s": pa.float64(),
    "pictures.has_audio": pa.bool_(),
}
_SOUND = {"sound.start_s": pa.float64(), "sound.end_s": pa.float64(), "sound.peak": pa.float64()}
_PLAIN = {
    "reason": _TEXT,
    "silence": _TEXT,
    "captions": pa.large_list(_TEXT),
    "video_digest": _TEXT,
    "audio_digest": _TEXT,
    "pose_digest": _TEXT,
}
FOUND_SCHEMA = pa.schema(_FOUND)
ROW_SCHEMA = pa.schema(_FOUND | _PICTURES | _SOUND | _PLAIN)
assert [name.split(".")[1] for name in _PICTURES] == list(VideoFacts._fields)
assert [name.split(".")[1] for name in _SOUND] == list(SoundFacts._fields)

Row = tuple[Found, Facts]


def manifest_place(store: str, source: str) -> str:
    return f"{store}/manifest/{source}.parquet"


def read_manifest(store: str, source: str, note: Callable[[str], None]) -> dict[str, Row]:
    """What is known of a source's clips by their names, without the words; empty if nothing is.

    A manifest that is damaged or of another version is left aside, and `note` is told so.
    """
    place = manifest_place(store, source)
    try:
        with open_file(place) as file:
            parquet = pq.ParquetFile(file)
            version = (parquet.schema_arrow.metadata or {}).get(_VERSION_KEY, b"").decode(errors="replace")
            if version != VERSION or not parquet.schema_arrow.equals(ROW_SCHEMA):
                note(f"{place} is of another version of ray_s2v; its clips are examined again")
                return {}
            table = parquet.read()
            table.validate(full=True)
    except FileNotFoundError:
        return {}
    except (OSError, pa.ArrowException) as error:
        note(f"{place} cannot be read ({error}); its clips are examined again")
        return {}
    return {found.name: (found, facts) for found, facts in rows_of(table)}


def write_manifest(store: str, source: str, rows: Sequence[Row]) -> None:
    """Writes what is known of a source's clips, whole or not at all. Raises DataError if the store cannot be written to."""
    place = manifest_place(store, source)
    table = table_of(rows).replace_schema_metadata({_VERSION_KEY: VERSION})
    try:
        if scheme_of(place):
            system, path = file_system(place)
            with system.open_output_stream(path) as file:
                pq.write_table(table, file)
        else:
            _write_local(table, Path(place))
    except OSError as error:
        raise DataError(f"data.store: {place} cannot be written: {error}") from error


def found_table(clips: Iterable[Found]) -> pa.Table:
    """Clips to examine as columns."""
    return pa.table(_found_columns(list(clips)), schema=FOUND_SCHEMA)


def founds_of(table: pa.Table) -> Iterator[Found]:
    """The clips of `found_table`, without the words."""
    parts = [_groups(table, Part, _columns_of(_FOUND, f"{part}.")) for part in _PARTS]
    for name, video, audio, pose, caption in zip(table["name"].to_pylist(), *parts, strict=True):
        yield Found(name, video, audio, pose, caption, None)


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Clips and their facts as columns."""
    facts = [known for _, known in rows]
    columns = _found_columns([found for found, _ in rows])
    columns |= _values(_columns_of(_PICTURES), [known.video for known in facts])
    columns |= _values(_columns_of(_SOUND), [known.sound for known in facts])
    columns |= {name: [getattr(known, name) for known in facts] for name in _PLAIN}
    return pa.table(columns, schema=ROW_SCHEMA)


def rows_of(table: pa.Table) -> Iterator[Row]:
    """The rows of `table_of`, without the words."""
    pictures, sounds = _groups(table, VideoFacts, _columns_of(_PICTURES)), _groups(table, SoundFacts, _columns_of(_SOUND))
    plain = (table[name].to_pylist() for name in _PLAIN)
    for found, video, sound, reason, silence, captions, *digests in zip(founds_of(table), pictures, sounds, *plain, strict=True):
        yield found, Facts(reason, video, sound, silence, tuple(captions), *digests)


def _found_columns(clips: Sequence[Found]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"name": [clip.name for clip in clips]}
    for number, part in enumerate(_PARTS):
        columns |= _values(_columns_of(_FOUND, f"{part}."), [clip.parts[number] for clip in clips])
    return columns


def _columns_of(kinds: Mapping[str, pa.DataType], start: str = "") -> list[str]:
    return [name for name in kinds if name.startswith(start)]


def _values(columns: Sequence[str], tuples: Sequence[tuple[Any, ...] | None]) -> dict[str, list[Any]]:
    """Each column's values; None in all of them stands for no tuple."""
    blank = (None,) * len(columns)
    return (
        dict(zip(columns, map(list, zip(*(one or blank for one in tuples), strict=True)), strict=True))
        if tuples
        else dict(zip(columns, repeat([])))
    )


def _groups(table: pa.Table, kind: Callable[..., Any], columns: Sequence[str]) -> Iterator[Any]:
    """Of each row what the columns hold together, None where they hold nothing."""
    for values in zip(*(table[name].to_pylist() for name in columns), strict=True):
        yield None if values[0] is None else kind(*values)


def _write_local(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # runs that share a store may write at once
    try:
        pq.write_table(table, half_written)
        os.replace(half_written, path)
    finally:
        half_written.unlink(missing_ok=True)
