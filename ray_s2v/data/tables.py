"""Parquet and CSV manifests: rows that name videos, sounds, poses and captions."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ray_s2v.data.found import Rejected, Seen, stem_of, suffix_of
from ray_s2v.data.listing import parts_at
from ray_s2v.schema import DataError
from ray_s2v.storage import absolute, open_file, scheme_of

COLUMNS = ("video", "audio", "pose", "caption")


class Row(NamedTuple):
    """A row of a manifest; cells that are empty or of no column are empty."""

    where: str  # manifest and line or row, as it is told
    folder: str  # that relative paths begin at
    video: str
    audio: str
    pose: str
    captions: tuple[str, ...]


class Table(NamedTuple):
    """A manifest as it was read."""

    columns: frozenset[str]
    rows: list[Row]


def read_table(place: str) -> Table:
    """The rows of a Parquet or CSV file. Raises DataError if it cannot be read or has no column `video`."""
    try:
        columns, rows = _csv_rows(place) if suffix_of(place) == ".csv" else _parquet_rows(place)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"data.sources: {place} cannot be read: {error}") from error
    return Table(frozenset(columns), list(rows))


def clips_in_tables(tables: Iterable[Table], root: str, with_text: bool) -> tuple[list[Seen], list[Rejected]]:
    """The videos that the rows of a source's manifests name. root: the folder that names are below; with_text: look for x.txt too.

    Whether the files are there is looked up once a folder.
    """
    rejected: list[Rejected] = []
    clips: list[Seen] = []
    rows = [(table, row, _places(row)) for table in tables for row in table.rows]
    wanted = {place for _, _, places in rows for place in places if place is not None}
    if with_text:
        wanted |= {f"{stem_of(places[0])}.txt" for _, _, places in rows if places[0]}
    there, lost = parts_at(wanted)
    for table, row, (video, audio, pose) in rows:
        if not row.video:
            rejected.append(Rejected(row.where, "the video cell is empty"))
        elif video is None or (row.audio and audio is None) or (row.pose and pose is None):
            rejected.append(Rejected(row.where, "a relative path leads out of the manifest's folder"))
        elif video in lost:
            rejected.append(Rejected(video, lost[video]))
        elif audio in lost:
            rejected.append(Rejected(video, f"no sound: {audio}: {lost[audio]}"))
        elif pose in lost:
            rejected.append(Rejected(video, f"no pose video: {pose}: {lost[pose]}"))
        else:
            sounds = ((there[audio],) if audio else ()) if "audio" in table.columns else None
            text = there.get(f"{stem_of(video)}.txt") if with_text else None
            clips.append(Seen(_name(video, root), there[video], text, None, row.captions, sounds, there[pose] if pose else None))
    return clips, rejected


def _places(row: Row) -> tuple[str | None, str | None, str | None]:
    """Where video, sound and pose lie; None where there is none, or where a relative path climbs out."""
    return _place(row.folder, row.video), _place(row.folder, row.audio), _place(row.folder, row.pose)


def _place(folder: str, path: str) -> str | None:
    if not path:
        return None
    if scheme_of(path) or path.startswith(("/", "~")):
        return absolute(path)
    inside = posixpath.normpath(path)
    return None if inside == ".." or inside.startswith("../") else f"{folder}/{inside}"


def _name(place: str, root: str) -> str:
    """The path below the root, else the whole path."""
    if place.startswith(f"{root}/"):
        return place[len(root) + 1 :]
    return place.removeprefix(f"{scheme_of(place)}://").lstrip("/")


def _csv_rows(place: str) -> tuple[list[str], Iterator[Row]]:
    with open_file(place) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"data.sources: {place}, line {line}: not UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"data.sources: {place}, line {reader.line_num}: {error}") from error
    columns = lines[0][1] if lines else []
    _check_columns(place, columns)
    for line, cells in lines[1:]:
        if len(cells) != len(columns):
            raise DataError(f"data.sources: {place}, line {line}: {len(cells)} values for {len(columns)} columns")
    rows = ((f"{place}, line {line}", dict(zip(columns, cells, strict=True))) for line, cells in lines[1:])
    return columns, (_row(where, posixpath.dirname(place), cells, cells.get("caption", "")) for where, cells in rows)


def _parquet_rows(place: str) -> tuple[list[str], Iterator[Row]]:
    with open_file(place) as file:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        _check_columns(place, schema.names)
        wanted = [name for name in COLUMNS if name in schema.names]
        for name in wanted:
            if not _holds_text(schema.field(name).type, may_be_list=name == "caption"):
                raise DataError(f"data.sources: {place}: column {name} is {schema.field(name).type}, must be string")
        table = parquet.read(columns=wanted)
        table.validate(full=True)  # that strings are UTF-8
    rows = zip(*(table[name].to_pylist() for name in wanted), strict=True)
    numbered = ((f"{place}, row {number}", dict(zip(wanted, cells, strict=True))) for number, cells in enumerate(rows, 1))
    return schema.names, (_row(where, posixpath.dirname(place), cells, cells.get("caption")) for where, cells in numbered)


def _holds_text(kind: pa.DataType, may_be_list: bool) -> bool:
    if may_be_list and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return _holds_text(kind.value_type, may_be_list=False)
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type, may_be_list=False)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _check_columns(place: str, columns: list[str]) -> None:
    if "video" not in columns:
        raise DataError(f"data.sources: {place} has no column video; its columns are {', '.join(columns) or 'none'}")
    for name in COLUMNS:
        if columns.count(name) > 1:
            raise DataError(f"data.sources: {place} has two columns {name}")


def _row(where: str, folder: str, cells: dict[str, str], caption: str | list[str | None] | None) -> Row:
    video, audio, pose = ((cells.get(name) or "").strip() for name in ("video", "audio", "pose"))
    captions = [caption] if isinstance(caption, str) else caption or []
    return Row(where, folder, video, audio, pose, tuple(said for text in captions if (said := (text or "").strip())))
