"""Pictures of a clip at 16 a second, chosen by time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from ray_s2v.media.container import first_picture, open_media, seek_points, tick_of, time_of, video_stream
from ray_s2v.media.picture import framed
from ray_s2v.schema import FRAME_RATE, ClipError, Framing


def read_frames(place: str, frames: Sequence[int], framing: Framing, *, black_after_end: bool = False) -> NDArray[np.uint8]:
    """The pictures at the 16-fps indices `frames`, as they are shown, scaled and cut out: [len(frames), height, width, 3] RGB.

    frames: ascending, duplicates allowed. Frame i is the source picture nearest in time to i / 16 s after the first picture.
    Decodes from the keyframe before the first to the last wanted picture, and holds what it gives. Raises ClipError for damaged files
    and, unless they are to be black, for frames past the end.
    """
    zero = time_of(first_picture(place))
    moments = [zero + Fraction(frame, FRAME_RATE) for frame in frames]
    for point in seek_points(zero, moments[0]):
        with open_media(place) as container:
            stream = video_stream(container)
            if point is not None:
                container.seek(int(point / tick_of(stream)), stream=stream)
            pictures = container.decode(stream)
            first = next(pictures, None)
            if first is not None and time_of(first) <= moments[0]:
                nearest = _nearest(chain([first], pictures), moments, black_after_end)
                return _pixels(nearest, len(moments), framing)
    raise ClipError("the first picture cannot be decoded twice")


def _pixels(pictures: Iterator[VideoFrame], num_pictures: int, framing: Framing) -> NDArray[np.uint8]:
    """The pictures in their final size, black where there are no more: [num_pictures, height, width, 3]. ClipError for a damaged one."""
    pixels = np.zeros((num_pictures, framing.height, framing.width, 3), np.uint8)
    last = None
    for position, picture in enumerate(pictures):
        if picture.is_corrupt:
            raise ClipError("a damaged picture")
        pixels[position] = pixels[position - 1] if picture is last else framed(picture, framing)
        last = picture
    return pixels


def _nearest(pictures: Iterator[VideoFrame], moments: Sequence[Fraction], may_end: bool) -> Iterator[VideoFrame]:
    """For each moment the picture nearest in time, the earlier of two equally near. Where the pictures end before, no more of them
    if they may, else a ClipError."""
    before, after = next(pictures), next(pictures, None)
    shown_for = _duration(before)
    for moment in moments:
        while after is not None and time_of(after) <= moment:
            shown_for = _duration(after) or time_of(after) - time_of(before)
            before, after = after, next(pictures, None)
        if after is None and moment >= time_of(before) + shown_for:
            if may_end:
                return
            raise ClipError(f"the pictures end {float(moment - time_of(before) - shown_for):.2f} s before a wanted frame")
        yield before if after is None or 2 * moment <= time_of(before) + time_of(after) else after


def _duration(picture: VideoFrame) -> Fraction:
    """Seconds for which the picture is shown, 0 where the file does not say."""
    return picture.duration * tick_of(picture)
