"""Pictures of a clip at 16 a second, chosen by time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from ray_s2v.media.container import first_picture, open_media, tick_of, time_of, video_stream
from ray_s2v.media.picture import fitted, pixel_aspect
from ray_s2v.schema import FRAME_RATE, ClipError

FIRST_STEP_BACK_S = Fraction(2)  # how much earlier to seek again where seeking landed late; doubled each time


def read_frames(path: str, frames: Sequence[int], width: int, height: int) -> NDArray[np.uint8]:
    """The pictures at the 16-fps indices `frames`, scaled to cover the size and cropped to it: [len(frames), height, width, 3] RGB.

    frames: ascending, duplicates allowed. Frame i is the source picture nearest in time to i / 16 s after the first picture.
    Decodes from the keyframe before the first to the last wanted picture. Raises ClipError for damaged files and frames past the end.
    """
    zero = time_of(first_picture(path))
    moments = [zero + Fraction(frame, FRAME_RATE) for frame in frames]
    for start in _starts(zero, moments[0]):
        with open_media(path) as container:
            stream = video_stream(container)
            if start is not None:
                container.seek(int(start / tick_of(stream)), stream=stream)
            pictures = container.decode(stream)
            first = next(pictures, None)
            if first is not None and time_of(first) <= moments[0]:
                chosen = _nearest(chain([first], pictures), moments)
                return _fitted(chosen, len(moments), pixel_aspect(stream), width, height)
    raise ClipError("the first picture cannot be decoded twice")


def _starts(zero: Fraction, moment: Fraction) -> Iterator[Fraction | None]:
    """Where to seek so as to come upon a picture at or before `moment`, the nearest try first; None is not to seek at all."""
    step_back = Fraction(0)
    while moment - step_back > zero:
        yield moment - step_back
        step_back = max(2 * step_back, FIRST_STEP_BACK_S)
    yield None


def _fitted(pictures: Iterator[VideoFrame], num_pictures: int, aspect: Fraction, width: int, height: int) -> NDArray[np.uint8]:
    """The pictures in their final size: [num_pictures, height, width, 3]. Raises ClipError for a damaged one."""
    pixels = np.empty((num_pictures, height, width, 3), np.uint8)
    last = None
    for position, picture in enumerate(pictures):
        if picture.is_corrupt:
            raise ClipError("a damaged picture")
        pixels[position] = pixels[position - 1] if picture is last else fitted(picture, aspect, width, height)
        last = picture
    return pixels


def _nearest(pictures: Iterator[VideoFrame], moments: Sequence[Fraction]) -> Iterator[VideoFrame]:
    """For each moment the picture nearest in time, the earlier of two equally near. Raises ClipError where the pictures end before."""
    before, after = next(pictures), next(pictures, None)
    shown_for = _duration(before)
    for moment in moments:
        while after is not None and time_of(after) <= moment:
            shown_for = _duration(after) or time_of(after) - time_of(before)
            before, after = after, next(pictures, None)
        if after is None and moment >= time_of(before) + shown_for:
            raise ClipError(f"the pictures end {float(moment - time_of(before) - shown_for):.2f} s before a wanted frame")
        yield before if after is None or 2 * moment <= time_of(before) + time_of(after) else after


def _duration(picture: VideoFrame) -> Fraction:
    """Seconds for which the picture is shown, 0 where the file does not say."""
    return picture.duration * tick_of(picture)
