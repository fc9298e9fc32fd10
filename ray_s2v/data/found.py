"""What a listing of a source gives: files that belong together as a clip, and what cannot be one."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import NamedTuple

from ray_s2v.storage import member_of


class Part(NamedTuple):
    """A file as the listing shows it."""

    place: str  # as storage.py reads it
    size: int  # bytes
    stamp: int  # changes when the file does


class Seen(NamedTuple):
    """A video as a folder, a tar or a manifest shows it, with what that says of its words, sound and pose."""

    name: str  # below the source, the same wherever the source lies
    video: Part
    text: Part | None  # the file of its stem that ends in .txt
    json: Part | None  # the member of its stem that ends in .json
    words: tuple[str, ...] | None  # of a manifest
    sounds: tuple[Part, ...] | None  # None where nothing is said; empty where it is said that there is none
    pose: Part | None


class Found(NamedTuple):
    """A clip that the listing alone makes whole. Nothing of it has been opened."""

    name: str
    video: Part
    audio: Part | None  # the video itself where the sound is in it
    pose: Part | None
    caption: Part | None  # the file that the captions are in
    words: tuple[str, ...] | None  # or the captions, where the listing knows them

    @property
    def parts(self) -> tuple[Part | None, ...]:
        """All that a file of the clip could change."""
        return self.video, self.audio, self.pose, self.caption


@dataclass(frozen=True)
class Rejected:
    """A clip that cannot be used, and why."""

    path: str
    reason: str


def stem_of(name: str) -> str:
    """A name without its last suffix: what files of one clip share."""
    return posixpath.splitext(name)[0]


def suffix_of(name: str) -> str:
    """`.mp4`, in small letters; empty without one."""
    return posixpath.splitext(name)[1].lower()


def shown(place: str) -> str:
    """A place as a person reads it: of a tar's member without its bytes' position."""
    member = member_of(place)
    return f"{member.tar}/{member.name}" if member else place


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder above it, is another program's own: named with a dot in front."""
    return name.startswith(".") or "/." in name


def unstorable(name: str) -> str | None:
    """A name that is not UTF-8 as it can be written down, None for any other."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return None
