"""The validation videos of a run, as its page plays them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import av

from ray_s2v.reporting.report.recorded import Line

POSTER_WIDTH = 480  # pixels


@dataclass(frozen=True)
class Shown:
    """A scene after some steps."""

    scene: str
    prompt: str
    source: str  # data URI, or where the file lies from the page; empty without a video
    is_embedded: bool
    poster: str  # data URI of its first picture
    missing: str  # why there is no video


@dataclass(frozen=True)
class Validated:
    """The scenes after so many steps."""

    step: int
    scenes: list[Shown]

    @property
    def is_linked(self) -> bool:
        return any(one.source and not one.is_embedded for one in self.scenes)


def videos(folder: Path, validations: Sequence[Line], prompts: Mapping[str, str], most_bytes: int) -> list[Validated]:
    """All of them, the newest first. From there as many lie in the page as take up `most_bytes`; the page links to the others' files.

    prompts: of the scenes; of one that the job no longer has it is not known.
    """
    left = most_bytes
    found = []
    for line in reversed(validations):
        scenes = []
        for scene, path in line["videos"].items():
            poster, missing = _first_picture(folder, path)
            if missing:
                scenes.append(_without_video(scene, missing))
                continue
            file = folder / path
            left -= file.stat().st_size  # below zero from the first one on that has no room
            source = _data_uri("video/mp4", file.read_bytes()) if left >= 0 else quote(path)
            scenes.append(Shown(scene, prompts.get(scene, ""), source, left >= 0, poster, ""))
        scenes += [_without_video(scene, reason) for scene, reason in line["failed"].items()]
        found.append(Validated(line["step"], scenes))
    return found


def _without_video(scene: str, reason: str) -> Shown:
    return Shown(scene, "", "", False, "", reason)


def _first_picture(folder: Path, path: str) -> tuple[str, str]:
    """As a data URI, for browsers show nothing of a video that they have not begun to load; or why there is none."""
    file = folder / path
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        return "", "the file is not there any more"
    try:
        with av.open(file) as container:
            picture = next(container.decode(video=0)).to_image()
    except av.FFmpegError as error:
        return "", f"the file cannot be read: {error.strerror}"
    picture.thumbnail((POSTER_WIDTH, POSTER_WIDTH))
    jpeg = BytesIO()
    picture.save(jpeg, "JPEG", quality=80)
    return _data_uri("image/jpeg", jpeg.getvalue()), ""


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
