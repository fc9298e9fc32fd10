"""One decoded picture made upright, square in its pixels, scaled and cropped."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ray_s2v.schema import ClipError

MAX_PIXEL_ASPECT = 8  # anamorphic pictures stay below 3; a broken header may say anything


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a stored pixel over its height. Raises ClipError where the header gives one that no camera has."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        raise ClipError(f"pixels {float(aspect):g} times as wide as high")
    return aspect


def shown_size(picture: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Width and height in square pixels after the rotation that the file asks for."""
    width, height = round(picture.width * aspect), picture.height
    (turn, _), _ = _display_matrix(picture)
    return (width, height) if turn else (height, width)


def fitted(picture: VideoFrame, aspect: Fraction, width: int, height: int) -> NDArray[np.uint8]:
    """The picture's centre, upright, scaled to cover the size with its proportions kept: [height, width, 3] RGB."""
    (across_x, across_y), (down_x, down_y) = _display_matrix(picture)
    upright = across_x != 0
    stored_width, stored_height = (width, height) if upright else (height, width)
    scale = max(stored_width / (picture.width * aspect), Fraction(stored_height, picture.height))
    scaled = picture.reformat(
        max(stored_width, round(picture.width * aspect * scale)),
        max(stored_height, round(picture.height * scale)),
        "rgb24",
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
        threads=1,
    )
    left, top = (scaled.width - stored_width) // 2, (scaled.height - stored_height) // 2
    pixels = np.asarray(scaled.to_ndarray(), np.uint8)[top : top + stored_height, left : left + stored_width]
    if not upright:
        pixels = pixels.transpose(1, 0, 2)
    x_direction, y_direction = (across_x, down_y) if upright else (down_x, across_y)
    return pixels[::y_direction, ::x_direction]


def _display_matrix(picture: VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a step to the right and a step down in the stored picture lead on the screen, in steps of -1, 0 and 1.

    Mirrored pictures are told by it too. Raises ClipError for turns other than by right angles.
    """
    if Type.DISPLAYMATRIX not in picture.side_data:
        return (1, 0), (0, 1)
    side_data = picture.side_data[Type.DISPLAYMATRIX]  # type: ignore[typeddict-item]  # PyAV's stub knows motion vectors only
    matrix = np.frombuffer(bytes(side_data), np.int32).reshape(3, 3)[:2, :2]
    steps = np.sign(matrix) * (abs(matrix) > abs(matrix).max() / 100)
    if (abs(steps).sum(axis=0) != 1).any() or (abs(steps).sum(axis=1) != 1).any():
        raise ClipError(f"turned by {picture.rotation} degrees")
    (across_x, across_y), (down_x, down_y) = steps.tolist()
    return (across_x, across_y), (down_x, down_y)
