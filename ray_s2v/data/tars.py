"""WebDataset shards: which clips lie in them, and where. Nothing is ever extracted."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray_s2v.data.found import Part, Rejected, Seen, is_hidden, stem_of, suffix_of, unstorable
from ray_s2v.data.listing import NOT_UTF8, REQUESTS
from ray_s2v.media.container import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from ray_s2v.schema import DataError
from ray_s2v.storage import Member, open_file

READ_AHEAD = 16 << 10  # bytes asked for with each header: those of the small members behind it come along, the video does not
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def clips_in_tars(tars: Mapping[str, Part], taken: set[str]) -> tuple[list[Seen], list[Rejected]]:
    """The videos of a source's shards, each with the members of its stem; a shard is known by its path below the source.

    Names are the members' own. Where two would be the same, or one of `taken`, all have their shard's path in front.
    """
    rejected: list[Rejected] = []
    with ThreadPoolExecutor(REQUESTS) as pool:
        shards = dict(zip(tars, pool.map(members_of, tars.values()), strict=True))
    names = Counter(name for members, _ in shards.values() for name in members if suffix_of(name) in VIDEO_SUFFIXES)
    is_told_apart = all(count == 1 for count in names.values()) and taken.isdisjoint(names)
    clips: list[Seen] = []
    for shard, (members, lost) in shards.items():
        rejected.extend(lost)
        clips.extend(_clips(members, "" if is_told_apart else f"{shard}/"))
    return clips, rejected


def members_of(tar: Part) -> tuple[dict[str, Part], list[Rejected]]:
    """The files of a shard by their names, from its headers alone, and what cannot be read where it lies, with the reason."""
    members: dict[str, Part] = {}
    rejected: list[Rejected] = []
    try:
        for info in _headers(tar):
            name = posixpath.normpath(info.name)
            if info.isdir() or is_hidden(posixpath.normpath(f"/{name}")[1:]):
                continue
            if reason := _unusable(info, name):
                rejected.append(Rejected(f"{tar.place}/{unstorable(info.name) or info.name}", reason))
                continue
            if info.offset_data + info.size > tar.size:
                raise tarfile.ReadError(f"cut off in {name}")
            if name in members:
                rejected.append(Rejected(f"{tar.place}/{name}", "the tar holds a later file of this name"))
            members[name] = Part(str(Member(tar.place, info.offset_data, info.size, name)), info.size, tar.stamp)
    except (tarfile.TarError, ValueError) as error:  # ValueError: of extended headers, which tarfile takes at their word
        rejected.append(Rejected(tar.place, f"damaged: {error}"))
    except OSError as error:
        raise DataError(f"data.sources: {tar.place} cannot be read: {error}") from error
    return members, rejected


def _headers(tar: Part) -> Iterator[tarfile.TarInfo]:
    """The members' headers. Raises tarfile.ReadError where the tar is compressed, cut off or damaged, after what comes before."""
    opened: Any = open_file(tar.place)
    with io.BufferedReader(opened.detach(), READ_AHEAD) as file:
        start = file.read(max(map(len, COMPRESSED)))
        for magic, compression in COMPRESSED.items():
            if start.startswith(magic):
                raise tarfile.ReadError(f"compressed by {compression}; members are read where they lie, so make it a plain tar")
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield from archive
            # tarfile takes a damaged header for the end; the end is a block of zeros.
            file.seek(archive.offset)
            block = file.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("cut off: its end is not there")
            if block.strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {archive.offset}")


def _unusable(info: tarfile.TarInfo, name: str) -> str:
    """Why a member is not read, empty for one that is."""
    if unstorable(info.name):
        return NOT_UTF8
    if name.startswith(("/", "../")) or name == "..":
        return "its path leads out of the tar"
    if info.issym() or info.islnk():
        return "a link"
    if info.issparse():
        return "a sparse file"
    return "" if info.isfile() else "not a file"


def _clips(members: Mapping[str, Part], front: str) -> Iterator[Seen]:
    """The videos of one shard. front: of their names."""
    stems: dict[str, dict[str, Part]] = defaultdict(dict)
    for name, part in members.items():
        stems[stem_of(name)][suffix_of(name)] = part
    for name, part in members.items():
        if suffix_of(name) in VIDEO_SUFFIXES:
            beside = stems[stem_of(name)]
            sounds = tuple(beside[suffix] for suffix in sorted(AUDIO_SUFFIXES & beside.keys()))
            yield Seen(front + name, part, beside.get(".txt"), beside.get(".json"), None, sounds or None, None)
