"""Files of folders, here or at URIs, with size and stamp, from as few requests as there can be."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyarrow import fs

from ray_s2v.data.found import Part, Rejected, is_hidden, unstorable
from ray_s2v.schema import ConfigError, DataError
from ray_s2v.storage import file_system, scheme_of

REQUESTS = 16  # at a time, of a remote service
NOT_UTF8 = "its name is not UTF-8"


def file_at(place: str) -> Part | None:
    """The file at a place, None for a folder. Raises ConfigError if neither is there."""
    try:
        if not scheme_of(place):
            info = os.stat(place)
            return None if stat.S_ISDIR(info.st_mode) else Part(place, info.st_size, info.st_mtime_ns)
        system, path = file_system(place)
        remote = system.get_file_info(path)
    except FileNotFoundError as error:
        raise ConfigError(f"data.sources: {place}: no such file or folder") from error
    except OSError as error:
        raise ConfigError(f"data.sources: {place}: {error.strerror or error}") from error
    if remote.type == fs.FileType.NotFound:
        raise ConfigError(f"data.sources: {place}: no such file or folder")
    return Part(place, remote.size, remote.mtime_ns or 0) if remote.is_file else None


def files_below(root: str) -> tuple[dict[str, Part], list[Rejected]]:
    """All files below a folder by their names below it, and what could not be listed.

    Links are followed, but never in a circle; names that begin with a dot are left out. Raises ConfigError if it is no folder.
    """
    if file_at(root) is not None:
        raise ConfigError(f"data.sources: {root}: not a folder")
    files: dict[str, Part] = {}
    rejected: list[Rejected] = []
    listed: Iterator[tuple[str, Part]]
    if scheme_of(root):
        listed = ((name, part) for name, part in _remote_below(root, recursive=True) if not is_hidden(name))
    else:
        listed = _local_below(root, "", (), rejected)
    for name, part in listed:
        if readable := unstorable(part.place):
            rejected.append(Rejected(readable, NOT_UTF8))
        else:
            files[name] = part
    return files, rejected


def parts_at(places: Iterable[str]) -> tuple[dict[str, Part], dict[str, str]]:
    """The files that are at these places, and why the others are not. Remote folders are listed once each."""
    wanted = set(places)
    there: dict[str, Part] = {}
    lost = dict.fromkeys(wanted, "no such file")
    for place in wanted:
        if not scheme_of(place):
            try:
                info = os.stat(place)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError) as error:  # ValueError: a name with a null byte
                lost[place] = str(error.strerror if isinstance(error, OSError) else error)
                continue
            if stat.S_ISREG(info.st_mode):
                there[place] = Part(place, info.st_size, info.st_mtime_ns)
    folders = sorted({posixpath.dirname(place) for place in wanted if scheme_of(place)})
    with ThreadPoolExecutor(REQUESTS) as pool:
        for listed in pool.map(lambda folder: list(_remote_below(folder, recursive=False)), folders):
            there.update((part.place, part) for _, part in listed if part.place in wanted)
    return there, {place: reason for place, reason in lost.items() if place not in there}


def _local_below(folder: str, below: str, above: tuple[tuple[int, int], ...], rejected: list[Rejected]) -> Iterator[tuple[str, Part]]:
    """Names and files of a folder. above: device and number of the folders on the way to it."""
    try:
        with os.scandir(folder) as entries:
            inside = [entry for entry in entries if not entry.name.startswith(".")]
        itself = os.stat(folder)
    except OSError as error:
        rejected.append(Rejected(_written(folder), f"the folder cannot be read: {error.strerror}"))
        return
    above = (*above, (itself.st_dev, itself.st_ino))
    for entry in inside:
        try:
            info = entry.stat()
        except FileNotFoundError:
            if entry.is_symlink():  # else it was taken away just now
                rejected.append(Rejected(_written(entry.path), "a link to what is not there"))
            continue
        except OSError as error:
            rejected.append(Rejected(_written(entry.path), f"cannot be read: {error.strerror}"))
            continue
        if stat.S_ISREG(info.st_mode):
            yield below + entry.name, Part(entry.path, info.st_size, info.st_mtime_ns)
        elif stat.S_ISDIR(info.st_mode):
            if (info.st_dev, info.st_ino) in above:
                rejected.append(Rejected(_written(entry.path), "a link to a folder that it lies in"))
            else:
                yield from _local_below(entry.path, f"{below}{entry.name}/", above, rejected)


def _written(path: str) -> str:
    return unstorable(path) or path


def _remote_below(root: str, recursive: bool) -> Iterator[tuple[str, Part]]:
    """Names and files of a remote folder, from one listing; nothing if it is not there."""
    system, path = file_system(root)
    scheme = scheme_of(root)
    try:
        if scheme == "hf":
            listed = _hub_files(system.handler.fs, path, recursive)
        else:
            infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))
            listed = [(info.path, info.size, info.mtime_ns or 0) for info in infos if info.is_file]
    except OSError as error:
        raise DataError(f"data.sources: {root} cannot be listed: {error}") from error
    for place, size, stamp in listed:
        yield place[len(path) :].lstrip("/"), Part(f"{scheme}://{place}", size, stamp)


def _hub_files(hub: Any, path: str, recursive: bool) -> list[tuple[str, int, int]]:
    """Path, size and stamp of the hub's files. The stamp is of their hashes, which Arrow's listing leaves out; few have a time."""
    try:
        infos = hub.find(path, maxdepth=None if recursive else 1, detail=True).values()
    except FileNotFoundError:
        return []
    return [(info["name"], info["size"], _stamp(f"{info.get('blob_id')} {info.get('mtime')}")) for info in infos]


def _stamp(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())
