"""Which size a clip is cropped to: sides worked out by hand, and what holds for every clip."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_s2v.config.source import Source
from ray_s2v.data.buckets import bucket_of
from ray_s2v.schema import Bucket, ClipError

PROPERTY = settings(deadline=None, database=None, derandomize=True, max_examples=200)
sides = st.integers(min_value=1, max_value=8192)


def source(resolution: Any, resolution_type: str, aspect_rounding: int = 2, num_frames: int = 80) -> Source:
    return Source.model_validate(
        {
            "path": "clips",
            "resolution": resolution,
            "resolution_type": resolution_type,
            "aspect_rounding": aspect_rounding,
            "num_frames": num_frames,
        }
    )


@pytest.mark.parametrize(
    ("clip", "resolution", "resolution_type", "expected"),
    [
        # sqrt(512 * 512 * 1.78) = 683.1 = 42.7 * 16; sqrt(512 * 512 / 1.78) = 383.8 = 23.99 * 16
        ((1920, 1080), 512, "pixel_area", (688, 384)),
        ((1000, 1000), 512, "pixel_area", (512, 512)),
        # aspect 0.56: sqrt(262144 * 0.56) = 383.1 = 23.9 * 16; sqrt(262144 / 0.56) = 684.2 = 42.8 * 16
        ((1080, 1920), 512, "pixel_area", (384, 688)),
        # sqrt(250000) = 500 = 31.25 * 16
        ((300, 300), 0.25, "area", (496, 496)),
        # sqrt(1e6 * 4) = 2000, sqrt(1e6 / 4) = 500
        ((400, 100), 1, "area", (2000, 496)),
        # 480 * 1.78 = 854.4 = 53.4 * 16
        ((1920, 1080), 480, "pixel", (848, 480)),
        # 480 / 0.56 = 857.1 = 53.6 * 16
        ((1080, 1920), 480, "pixel", (480, 864)),
        ((77, 77), 64, "pixel", (64, 64)),
    ],
)
def test_sides_by_hand(clip: tuple[int, int], resolution: float, resolution_type: str, expected: tuple[int, int]) -> None:
    assert bucket_of(*clip, source(resolution, resolution_type)) == Bucket(*expected, 80)


@PROPERTY
@given(sides, sides, st.sampled_from([4, 48, 80]))
def test_exact_is_the_same_for_every_clip(width: int, height: int, num_frames: int) -> None:
    assert bucket_of(width, height, source("832x480", "exact", num_frames=num_frames)) == Bucket(832, 480, num_frames)


@PROPERTY
@given(sides, sides, st.integers(min_value=64, max_value=1024), st.integers(min_value=0, max_value=4))
def test_area_and_aspect_are_kept_to_the_rounding(width: int, height: int, edge: int, digits: int) -> None:
    try:
        bucket = bucket_of(width, height, source(edge, "pixel_area", digits))
    except ClipError:
        # Refused only where the short side of the true aspect ratio, rounded either way, comes below 64.
        lowest, highest = max(width / height - 0.5 * 10**-digits, 0), width / height + 0.5 * 10**-digits
        assert edge * min(lowest, 1 / highest) ** 0.5 < 64
        return
    assert bucket.width % 16 == bucket.height % 16 == 0
    assert min(bucket.width, bucket.height) >= 64
    aspect = round(width / height, digits)
    assert abs(bucket.width - edge * aspect**0.5) <= 8 + 1e-6
    assert abs(bucket.height - edge / aspect**0.5) <= 8 + 1e-6


@PROPERTY
@given(sides, sides, st.integers(min_value=64, max_value=1024))
def test_pixel_is_the_short_side(width: int, height: int, short: int) -> None:
    try:
        bucket = bucket_of(width, height, source(short, "pixel"))
    except ClipError:
        assert width / height <= 0.005
        return
    assert abs(min(bucket.width, bucket.height) - short) <= 8
    assert (bucket.width >= bucket.height) if width >= height else (bucket.width <= bucket.height)


def test_area_counts_megapixels() -> None:
    # A million pixels are the square of a thousand.
    for clip in ((640, 360), (500, 500), (360, 640)):
        assert bucket_of(*clip, source(1, "area")) == bucket_of(*clip, source(1000, "pixel_area"))


def test_fewer_digits_merge_buckets() -> None:
    clips = [(width, 1000) for width in range(1000, 2000, 7)]
    numbers = [len({bucket_of(*clip, source(512, "pixel_area", digits)) for clip in clips}) for digits in (0, 1, 2)]
    assert numbers[0] == 2  # aspects 1 and 2
    assert numbers[0] < numbers[1] < numbers[2]


@pytest.mark.parametrize(("clip", "resolution"), [((100, 3000), 256), ((3000, 100), 256), ((500, 500), 40)])
def test_too_small_for_the_network_is_refused_with_the_size(clip: tuple[int, int], resolution: int) -> None:
    with pytest.raises(ClipError, match=rf"{clip[0]}x{clip[1]} would become \d+x\d+; .* 64 pixels"):
        bucket_of(*clip, source(resolution, "pixel_area"))


def test_too_narrow_for_any_aspect_is_refused() -> None:
    with pytest.raises(ClipError, match="1x900 is too narrow"):
        bucket_of(1, 900, source(512, "pixel"))
