"""A path, a URI or a member of a tar shard to a file that can be read.

    /data/x.mp4    s3://bucket/x.mp4    gs://bucket/x.mp4    hf://datasets/owner/name/x.mp4    /data/shard.tar#512+10240/x.mp4

Tar members are read where they lie: `#offset+size/name`. Keys, regions and endpoints are the environment's, as each service names them.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from functools import cache
from typing import IO, Any, NamedTuple

from pyarrow import fs

from ray_s2v.schema import ConfigError

SCHEMES = ("s3", "gs", "hf")
READ_AHEAD = 1 << 20  # bytes that a remote file or a tar is asked for at a time
_MEMBER = re.compile(r"(?P<tar>.+?\.tar)#(?P<offset>\d+)\+(?P<size>\d+)/(?P<name>.+)", re.DOTALL)


class Member(NamedTuple):
    """A file inside a tar that is not compressed."""

    tar: str
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.tar}#{self.offset}+{self.size}/{self.name}"


def member_of(place: str) -> Member | None:
    """The member of a tar that a place names, None for a file of its own."""
    found = _MEMBER.fullmatch(place)
    return Member(found["tar"], int(found["offset"]), int(found["size"]), found["name"]) if found else None


def scheme_of(place: str) -> str:
    """`s3`, `gs` or `hf`; empty for a path of this machine. Raises ConfigError for a URI of another kind."""
    scheme, colon, _ = place.partition("://")
    if not colon or "/" in scheme:
        return ""
    if scheme not in SCHEMES:
        raise ConfigError(f"{place}: {scheme}:// cannot be read; {', '.join(f'{s}://' for s in SCHEMES)} and paths can")
    return scheme


def absolute(place: str) -> str:
    """The place as every process names it: a path made absolute, a URI as it is, without a slash at the end."""
    return place.rstrip("/") if scheme_of(place) else os.path.abspath(os.path.expanduser(place))


def file_system(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path in it. Raises ConfigError for a URI of a kind that cannot be read."""
    scheme = scheme_of(place)
    return _file_system(scheme), place.removeprefix(f"{scheme}://") if scheme else place


@cache
def _file_system(scheme: str) -> fs.FileSystem:
    if scheme == "s3":  # Arrow takes keys and region from the environment, but not this
        return fs.S3FileSystem(endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
    if scheme == "gs":
        return fs.GcsFileSystem()
    if scheme == "hf":
        from huggingface_hub import HfFileSystem  # slow to import

        return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem()))
    return fs.LocalFileSystem()


def open_file(place: str) -> IO[bytes]:
    """The file at a place, open for reading and seeking. Raises OSError if it is not there, may not be read, or is a pipe or a device,
    which may never end.
    """
    member = member_of(place)
    if member:
        part: Any = _Part(open_file(member.tar), member.offset, member.size)
        return io.BufferedReader(part, READ_AHEAD)
    if not scheme_of(place):
        if not stat.S_ISREG(mode := os.stat(place).st_mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "neither a file nor a folder", place)
        return open(place, "rb")
    system, path = file_system(place)
    return io.BufferedReader(system.open_input_file(path), READ_AHEAD)


class _Part(io.RawIOBase):
    """`size` bytes of a file from `offset` on, as a file."""

    def __init__(self, whole: IO[bytes], offset: int, size: int) -> None:
        self.whole, self.offset, self.size, self.position = whole, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.position = start + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self.whole.seek(self.offset + self.position)
        data = self.whole.read(max(min(len(buffer), self.size - self.position), 0))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def close(self) -> None:
        self.whole.close()
        super().close()
