"""Which size a clip is cropped to."""

from __future__ import annotations

import math

from ray_s2v.config.source import Source
from ray_s2v.schema import MIN_SIDE, SIZE_MULTIPLE, Bucket, ClipError


def _rounded(pixels: float) -> int:
    return max(round(pixels / SIZE_MULTIPLE), 1) * SIZE_MULTIPLE


def bucket_of(width: int, height: int, source: Source) -> Bucket:
    """The bucket of a clip of this size: the exact one asked for, or one of its own aspect ratio at the source's resolution.

    `pixel_area`: resolution is the edge of the square of that area; `area`: megapixels; `pixel`: the short side. Aspect ratios
    are rounded to `aspect_rounding` digits, sides to multiples of 16. Raises ClipError where a side would be under 64.
    """
    if source.resolution_type == "exact":
        return Bucket(*source.exact_size(), source.num_frames)
    resolution, aspect = float(source.resolution), round(width / height, source.aspect_rounding)
    if aspect == 0:
        raise ClipError(f"{width}x{height} is too narrow for any bucket")
    if source.resolution_type == "pixel":
        sides = (resolution * max(aspect, 1), resolution * max(1 / aspect, 1))
    else:
        area = resolution * 1e6 if source.resolution_type == "area" else resolution**2
        sides = (math.sqrt(area * aspect), math.sqrt(area / aspect))
    bucket = Bucket(_rounded(sides[0]), _rounded(sides[1]), source.num_frames)
    if min(bucket.width, bucket.height) < MIN_SIDE:
        raise ClipError(f"{width}x{height} would become {bucket.width}x{bucket.height}; the network needs {MIN_SIDE} pixels each way")
    return bucket
