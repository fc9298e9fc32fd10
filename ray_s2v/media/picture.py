"""One decoded picture made upright, square in its pixels, scaled and cropped."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ray_s2v.schema import ClipError, Framing

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


def centred(shown_width: int, shown_height: int, width: int, height: int) -> Framing:
    """The smallest scaling that covers the size with proportions kept, and the centre of it."""
    scale = max(Fraction(width, shown_width), Fraction(height, shown_height))
    scaled_width, scaled_height = max(width, round(shown_width * scale)), max(height, round(shown_height * scale))
    return Framing(scaled_width, scaled_height, (scaled_width - width) // 2, (scaled_height - height) // 2, width, height)


def framed(picture: VideoFrame, framing: Framing) -> NDArray[np.uint8]:
    """The picture upright and scaled as a whole, then cut out: [height, width, 3] RGB."""
    (across_x, across_y), (down_x, down_y) = _display_matrix(picture)
    upright = across_x != 0
    scaled_size = (framing.scaled_width, framing.scaled_height)
    scaled = picture.reformat(
        *(scaled_size if upright else scaled_size[::-1]),
        "rgb24",
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
        threads=1,
    )
    pixels = np.asarray(scaled.to_ndarray(), np.uint8)
    if not upright:
        pixels = pixels.transpose(1, 0, 2)
    x_direction, y_direction = (across_x, down_y) if upright else (down_x, across_y)
    shown = pixels[::y_direction, ::x_direction]
    return shown[framing.top : framing.top + framing.height, framing.left : framing.left + framing.width]


def _display_matrix(picture: VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a step to the right and a step down in the stored picture lead on the screen, in steps of -1, 0 and 1.

    Mirrored pictures are told by it too. Raises ClipError for turns other than by right angles.
    """
    # Not picture.side_data: that and the picture would refer to each other, and pictures pile up until the garbage is collected.
    try:
        side_data = SideDataContainer(picture)  # type: ignore[call-arg]
    except ValueError as error:  # of a kind that PyAV does not know
        raise ClipError(f"pictures with data beside them that cannot be read: {error}") from error
    if Type.DISPLAYMATRIX not in side_data:
        return (1, 0), (0, 1)
    matrix = np.frombuffer(bytes(side_data[Type.DISPLAYMATRIX]), np.int32).reshape(3, 3)[:2, :2]
    steps = np.sign(matrix) * (abs(matrix) > abs(matrix).max() / 100)
    if (abs(steps).sum(axis=0) != 1).any() or (abs(steps).sum(axis=1) != 1).any():
        raise ClipError(f"turned by {picture.rotation} degrees")
    (across_x, across_y), (down_x, down_y) = steps.tolist()
    return (across_x, across_y), (down_x, down_y)
