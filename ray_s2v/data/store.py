"""The feature store: one Parquet file for each key, below `features/<kind>/<first two digits>/`.

A file of its own, not a shard of many: the values are 0.1 to 20 MB each, so it is a fair size for a disk and an object store;
it appears whole or not at all; two runs may fill one store at once; nothing has to be indexed, compacted or locked.
"""

from __future__ import annotations

import io
import os
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ray_s2v.data.features import FeatureKind
from ray_s2v.data.rows import Row, to_row, to_table
from ray_s2v.schema import ConfigError, DataError
from ray_s2v.storage import file_system, scheme_of

STALE_S = 6 * 3600  # a half-written file of that age belongs to nobody any more


def write_whole(place: str, content: bytes) -> None:
    """A file that appears only when it is whole, in a folder that is made if it is not there."""
    if scheme_of(place):
        system, path = file_system(place)
        with system.open_output_stream(path) as stream:
            stream.write(content)
        return
    file_there = Path(place)
    file_there.parent.mkdir(parents=True, exist_ok=True)
    half_written = file_there.with_name(f".{file_there.name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        with half_written.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        half_written.replace(file_there)
    finally:
        half_written.unlink(missing_ok=True)


def _place(store: str, kind: FeatureKind, key: str) -> str:
    return f"{store}/features/{kind}/{key[:2]}/{key}.parquet"


def stored_keys(store: str, kind: FeatureKind) -> dict[str, int]:
    """Key and bytes of everything of a kind that is in the store. Raises ConfigError where the store cannot be listed."""
    system, path = file_system(f"{store}/features/{kind}")
    try:
        found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise ConfigError(f"data.store: {store} cannot be listed: {error}") from error
    return {info.base_name.removesuffix(".parquet"): info.size for info in found if info.extension == "parquet"}


def save(store: str, kind: FeatureKind, key: str, rows: Sequence[Row]) -> int:
    """Puts rows of one kind of arrays into the store under a key; the number of bytes that they take there."""
    buffer = io.BytesIO()
    tables = [to_table(row) for row in rows]
    # Numbers of this kind do not compress. A group a row, so that each can be read alone.
    with pq.ParquetWriter(buffer, tables[0].schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for table in tables:
            writer.write_table(table)
    write_whole(_place(store, kind, key), buffer.getvalue())
    return buffer.tell()


def load(store: str, kind: FeatureKind, key: str, wanted: slice = slice(None)) -> list[Row] | None:
    """The wanted ones of the rows that `save` was given, None if there is nothing under the key. Raises DataError if it is damaged."""
    place = _place(store, kind, key)
    system, path = file_system(place)
    try:
        file = system.open_input_file(path)
    except FileNotFoundError:
        return None
    try:
        with file, pq.ParquetFile(file, pre_buffer=True) as entry:
            groups = range(entry.num_row_groups)[wanted]
            # Without threads: tables that they read must not outlive the interpreter, and views into these do.
            return [to_row(entry.read_row_group(group, use_threads=False)) for group in groups]
    except (pa.ArrowInvalid, ValueError) as error:
        raise DataError(f"{place} is damaged ({error}): delete it and run `python -m ray_s2v.encode` again") from error


def remove_stale(store: str) -> None:
    """Deletes what killed writers left half-written on this machine's disk; an object store keeps nothing of that kind."""
    folder = Path(store) / "features"
    if scheme_of(store) or not folder.is_dir():
        return
    for part in folder.rglob(".*.part"):
        if time.time() - part.stat().st_mtime > STALE_S:
            part.unlink(missing_ok=True)
