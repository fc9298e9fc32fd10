"""How large a video of a picture is made, and the picture cut to that size."""

from __future__ import annotations

import struct
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ray_s2v.config.sampling import Sampling
from ray_s2v.media.container import first_picture
from ray_s2v.schema import ClipError
from ray_s2v.storage import open_file

OFFICIAL_MULTIPLE = 64  # pixels
SMALLEST_SCALE = 0.1
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # PostScript Pillow would have Ghostscript run


def still(path: str) -> Image.Image:
    """A picture, upright, in RGB; of a video its first. Raises OSError, ClipError, and Image.DecompressionBombError where it is huge."""
    with open_file(path) as file:
        try:
            with Image.open(file, formats=FORMATS) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
        except UnidentifiedImageError:
            return first_picture(path).to_image()
        except (SyntaxError, ValueError, LookupError, TypeError, ZeroDivisionError, struct.error) as error:  # all of which Pillow raises
            raise ClipError(f"a damaged picture: {error}") from error


def picture_of(path: str, settings: Sampling) -> NDArray[np.uint8]:
    """The picture, scaled to cover the video's size and cut at its centre: [height, width, 3]. Raises as `still` does."""
    upright = still(path)
    width, height = settings.sides
    if settings.sizing == "official":
        width, height = official_size(*upright.size, width * height)
    return np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC))


def official_size(width: int, height: int, area: int) -> tuple[int, int]:
    """Width and height of at most `area` pixels, both multiples of 64, for a picture of this shape: it is scaled down in steps of a
    hundredth until what it fills, rounded up, fits. wan_s2v section 8.
    """
    largest = min(1.0, sqrt(area / (width * height)))
    for step in range(101):
        scale = largest - (largest - SMALLEST_SCALE * largest) * step / 100
        filled = tuple(-(-int(side * scale) // OFFICIAL_MULTIPLE) * OFFICIAL_MULTIPLE for side in (width, height))
        if filled[0] * filled[1] <= area:
            break
    return filled[0], filled[1]
