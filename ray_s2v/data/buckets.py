"""Which bucket a clip stands in, and the size to which its whole picture is scaled before the bucket's size is cut out."""

from __future__ import annotations

import math
from fractions import Fraction

from ray_s2v.config.source import MAX_SIDE, Source
from ray_s2v.data.draws import generator, pick
from ray_s2v.schema import MIN_SIDE, SIZE_MULTIPLE, Bucket, ClipError

MAX_SCALED = 1 << 14  # pixels; twice as wide as an 8K picture


def framed(width: int, height: int, num_frames: int, source: Source, clip_id: str) -> tuple[Bucket, int, int]:
    """The bucket of a clip, and the scaled width and height of its whole picture, which are never below the bucket's.

    width, height: of the picture as it is shown. num_frames: of the whole clip, at 16 a second. Raises ClipError where the source
    takes no clip of this size or length, or the network none of the bucket's.
    """
    frames = _bucket_frames(num_frames, source)
    size = _size(width, height, source)
    if source.min_size is not None and size < source.min_size:
        raise ClipError(f"too small: {width}x{height}, min_size is {source.min_size:g}")
    bucket = Bucket(*_bucket_sides(width, height, source, clip_id), frames)
    if source.crop == "none":
        return bucket, bucket.width, bucket.height
    scale = max(Fraction(bucket.width, width), Fraction(bucket.height, height))
    if source.max_size is not None and source.downsample_to is not None and size > source.max_size:
        shrunk = source.downsample_to / size
        scale = max(scale, Fraction(math.sqrt(shrunk) if source.resolution_type == "area" else shrunk))
    scaled_width, scaled_height = max(bucket.width, round(width * scale)), max(bucket.height, round(height * scale))
    if max(scaled_width, scaled_height) > MAX_SCALED:
        raise ClipError(f"{width}x{height} is too narrow to be cut to {bucket.width}x{bucket.height}")
    return bucket, scaled_width, scaled_height


def _bucket_frames(num_frames: int, source: Source) -> int:
    if num_frames < source.least_frames():
        asked = next(name for name in ("min_frames", "frame_interval", "num_frames") if getattr(source, name))
        raise ClipError(f"too short: {num_frames} frames at 16 a second, {asked} is {source.least_frames()}")
    if source.max_frames is not None and num_frames > source.max_frames:
        raise ClipError(f"too long: {num_frames} frames at 16 a second, max_frames is {source.max_frames}")
    if source.frame_interval is None:
        return source.num_frames
    return min(num_frames, source.num_frames) // source.frame_interval * source.frame_interval


def _size(width: int, height: int, source: Source) -> float:
    """In the unit of `resolution_type`, as Source tells it."""
    if source.resolution_type == "area":
        return width * height / 1e6
    return math.sqrt(width * height) if source.resolution_type == "pixel_area" else min(width, height)


def _bucket_sides(width: int, height: int, source: Source, clip_id: str) -> tuple[int, int]:
    """The exact size asked for, or that of the clip's aspect ratio at the source's resolution, in multiples of 16."""
    if source.resolution_type == "exact":
        return source.exact_size()
    resolution, aspect = float(source.resolution), _aspect(width, height, source, clip_id)
    if source.resolution_type == "pixel":
        exact = (resolution * max(aspect, 1), resolution * max(1 / aspect, 1))
    else:
        area = resolution * 1e6 if source.resolution_type == "area" else resolution**2
        exact = (math.sqrt(area * aspect), math.sqrt(area / aspect))
    sides = _rounded(exact[0]), _rounded(exact[1])
    if min(sides) < MIN_SIDE:
        raise ClipError(f"{width}x{height} would become {sides[0]}x{sides[1]}; the network needs {MIN_SIDE} pixels each way")
    if max(sides) > MAX_SIDE:
        raise ClipError(f"{width}x{height} would become {sides[0]}x{sides[1]}; {MAX_SIDE} pixels each way is the most")
    return sides


def _aspect(width: int, height: int, source: Source, clip_id: str) -> float:
    """Width over height: the clip's, rounded to `aspect_rounding` digits, or as `aspect` says, one of `aspects` by the id alone."""
    if source.aspect == "square":
        return 1.0
    if source.aspect == "random" and source.aspects:
        return source.aspects[pick(generator("aspect", clip_id).random(), len(source.aspects))]
    aspect = round(width / height, source.aspect_rounding)
    if aspect == 0:
        raise ClipError(f"{width}x{height} is too narrow for any bucket")
    return aspect


def _rounded(pixels: float) -> int:
    return max(round(pixels / SIZE_MULTIPLE), 1) * SIZE_MULTIPLE
