"""Which bucket a clip stands in and how large its picture is made: sides worked out by hand, and what holds for every clip."""

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ray_s2v.config.source import Source
from ray_s2v.data.buckets import framed
from ray_s2v.schema import Bucket, ClipError

PROPERTY = settings(deadline=None, database=None, derandomize=True, max_examples=200)
sides = st.integers(min_value=1, max_value=8192)


def source(resolution: Any = "832x480", resolution_type: str = "exact", **options: Any) -> Source:
    return Source.model_validate({"path": "clips", "resolution": resolution, "resolution_type": resolution_type} | options)


def bucket_of(width: int, height: int, of: Source) -> Bucket:
    return framed(width, height, 120, of, "clips/x.mp4")[0]


def scaled(width: int, height: int, of: Source) -> tuple[int, int]:
    return framed(width, height, 120, of, "clips/x.mp4")[1:]


@pytest.mark.parametrize(
    ("clip", "resolution", "resolution_type", "expected"),
    [
        # sqrt(512 * 512 * 1.78) = 683.1 = 42.7 * 16; sqrt(512 * 512 / 1.78) = 383.8 = 23.99 * 16
        ((1920, 1080), 512, "pixel_area", (688, 384)),
        ((1000, 1000), 512, "pixel_area", (512, 512)),
        # aspect 0.56: sqrt(262144 * 0.56) = 383.1 = 23.9 * 16; sqrt(262144 / 0.56) = 684.2 = 42.8 * 16
        ((1080, 1920), 512, "pixel_area", (384, 688)),
        ((4320, 7680), 512, "pixel_area", (384, 688)),
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
    assume(max(width, height) * max(832 / width, 480 / height) < 1 << 14)
    assert bucket_of(width, height, source(num_frames=num_frames)) == Bucket(832, 480, num_frames)


@pytest.mark.parametrize("size", [(1, 8192), (8192, 1), (20, 1000)])
def test_a_line_is_no_picture(size: tuple[int, int]) -> None:
    """To cover the bucket it would become millions of pixels long."""
    with pytest.raises(ClipError, match="too narrow to be cut to 832x480"):
        bucket_of(*size, source())


@PROPERTY
@given(sides, sides, st.integers(min_value=64, max_value=1024), st.integers(min_value=0, max_value=4))
def test_area_and_aspect_are_kept_to_the_rounding(width: int, height: int, edge: int, digits: int) -> None:
    try:
        bucket = bucket_of(width, height, source(edge, "pixel_area", aspect_rounding=digits))
    except ClipError:
        # Refused only where a side of the true aspect ratio, rounded either way, comes below 64 or above 4096.
        lowest, highest = max(width / height - 0.5 * 10**-digits, 0), width / height + 0.5 * 10**-digits
        assert edge * min(lowest, 1 / highest) ** 0.5 < 64 or edge * max(highest, 1 / max(lowest, 1e-9)) ** 0.5 > 4096
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
        assert width / height <= 0.005 or short * max(width / height, 1 / (width / height - 0.005)) > 4096
        return
    assert abs(min(bucket.width, bucket.height) - short) <= 8
    assert (bucket.width >= bucket.height) if width >= height else (bucket.width <= bucket.height)


def test_area_counts_megapixels() -> None:
    # A million pixels are the square of a thousand.
    for clip in ((640, 360), (500, 500), (360, 640)):
        assert bucket_of(*clip, source(1, "area")) == bucket_of(*clip, source(1000, "pixel_area"))


def test_fewer_digits_merge_buckets() -> None:
    clips = [(width, 1000) for width in range(1000, 2000, 7)]
    numbers = [len({bucket_of(*clip, source(512, "pixel_area", aspect_rounding=digits)) for clip in clips}) for digits in (0, 1, 2)]
    assert numbers[0] == 2  # aspects 1 and 2
    assert numbers[0] < numbers[1] < numbers[2]


@pytest.mark.parametrize(("clip", "resolution"), [((100, 3000), 256), ((3000, 100), 256)])
def test_too_small_for_the_network_is_refused_with_the_size(clip: tuple[int, int], resolution: int) -> None:
    with pytest.raises(ClipError, match=rf"{clip[0]}x{clip[1]} would become \d+x\d+; .* 64 pixels"):
        bucket_of(*clip, source(resolution, "pixel_area"))


def test_a_side_that_no_machine_has_room_for_is_refused() -> None:
    with pytest.raises(ClipError, match="4000x200 would become 9600x480; 4096 pixels"):
        bucket_of(4000, 200, source(480, "pixel"))


def test_too_narrow_for_any_aspect_is_refused() -> None:
    with pytest.raises(ClipError, match="1x900 is too narrow"):
        bucket_of(1, 900, source(512, "pixel"))


@pytest.mark.parametrize(("resolution", "resolution_type"), [(512, "pixel_area"), (0.262144, "area"), (512, "pixel")])
def test_square_is_square_at_the_resolution(resolution: float, resolution_type: str) -> None:
    for clip in ((1920, 1080), (1080, 1920), (200, 4000)):
        assert bucket_of(*clip, source(resolution, resolution_type, aspect="square")) == Bucket(512, 512, 80)


def test_random_aspects_are_those_of_the_list_drawn_from_the_id() -> None:
    """Each of three for 200 of 600 ids, with a deviation of 11.5; 512 / sqrt(4 / 3) = 443.4 = 27.7 * 16."""
    of = source(512, "pixel_area", aspect="random", aspects=[1, 4, 1.3333])
    drawn = {f"c{i}": framed(1920, 1080, 80, of, f"c{i}")[0] for i in range(600)}
    counts = Counter(drawn.values())
    assert counts.keys() == {Bucket(512, 512, 80), Bucket(1024, 256, 80), Bucket(592, 448, 80)}
    assert all(abs(count - 200) < 46 for count in counts.values())
    # Of the same id the same, for any picture and length.
    assert all(framed(300, 900, 500, of, name)[0] == bucket for name, bucket in drawn.items())


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ((832, 480), (832, 480)),
        # 480 / 1080 * 1920 = 853.3
        ((1920, 1080), (853, 480)),
        # 832 / 4320 * 7680 = 1479.1
        ((4320, 7680), (832, 1479)),
        # 832 / 400 * 300 = 624
        ((400, 300), (832, 624)),
    ],
)
def test_cover_by_hand(clip: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled(*clip, source()) == expected


@PROPERTY
@given(sides, sides, st.sampled_from(["center", "random", "corner"]))
def test_cover_is_the_smallest_with_proportions_kept(width: int, height: int, crop: str) -> None:
    assume(max(width, height) * max(832 / width, 480 / height) < 1 << 14)
    across, down = scaled(width, height, source(crop=crop))
    assert across >= 832
    assert down >= 480
    assert across == 832 or down == 480
    # To the rounding of the longer side.
    assert abs(across - down * Fraction(width, height)) <= Fraction(1, 2) or abs(down - across * Fraction(height, width)) <= Fraction(1, 2)


@PROPERTY
@given(sides, sides)
def test_no_crop_shows_all_of_the_picture(width: int, height: int) -> None:
    of = source(512, "pixel_area", crop="none")
    try:
        bucket, *size = framed(width, height, 80, of, "x")
    except ClipError:
        assert min(width / height, height / width) < 1 / 50  # whose short side would be 72
        return
    assert size == [bucket.width, bucket.height]
    # Rounding a side to 16 moves it by 8, and the ratio to two digits by 0.005.
    low, high = (bucket.width - 8) / (bucket.height + 8), (bucket.width + 8) / (bucket.height - 8)
    assert low - 0.005 <= width / height <= high + 0.005


@pytest.mark.parametrize(
    ("clip", "of", "expected"),
    [
        # The short side, 2160, is above 1080, so it becomes 720; what is not above is scaled to cover.
        ((3840, 2160), source(max_size=1080, downsample_to=720), (1280, 720)),
        ((1920, 1080), source(max_size=1080, downsample_to=720), (853, 480)),
        ((3840, 2160), source(256, "pixel", max_size=1080, downsample_to=720), (1280, 720)),
        # 500 pixels would not cover the 832.
        ((2160, 3840), source(max_size=1080, downsample_to=500), (832, 1479)),
        # 4 megapixels become 1: each side half.
        ((4000, 1000), source(0.1, "area", max_size=2, downsample_to=1), (2000, 500)),
        # The square of that area has 2000 a side, and becomes 500.
        ((4000, 1000), source(128, "pixel_area", max_size=1000, downsample_to=500), (1000, 250)),
    ],
)
def test_larger_pictures_are_shrunk_to_downsample_to(clip: tuple[int, int], of: Source, expected: tuple[int, int]) -> None:
    assert scaled(*clip, of) == expected


@pytest.mark.parametrize(
    ("clip", "of", "reason"),
    [
        ((320, 240), source(min_size=241), "too small: 320x240, min_size is 241"),
        ((240, 320), source(256, "pixel", min_size=241), "too small: 240x320, min_size is 241"),
        # 320 * 240 = 76800 = 277.1 squared
        ((320, 240), source(256, "pixel_area", min_size=278), "too small: 320x240, min_size is 278"),
        ((320, 240), source(0.1, "area", min_size=0.077), "too small: 320x240, min_size is 0.077"),
    ],
)
def test_smaller_pictures_are_refused(clip: tuple[int, int], of: Source, reason: str) -> None:
    with pytest.raises(ClipError) as caught:
        bucket_of(*clip, of)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "of",
    [
        source(min_size=240),
        source(256, "pixel", min_size=240),
        source(256, "pixel_area", min_size=277),
        source(0.1, "area", min_size=0.0768),
    ],
)
def test_pictures_just_large_enough_are_taken(of: Source) -> None:
    assert bucket_of(320, 240, of).num_frames == 80


@pytest.mark.parametrize(
    ("num_frames", "options", "reason"),
    [
        (79, {}, "too short: 79 frames at 16 a second, num_frames is 80"),
        (95, {"min_frames": 96}, "too short: 95 frames at 16 a second, min_frames is 96"),
        (15, {"bucket_strategy": "resolution_frames", "frame_interval": 16}, "too short: 15 frames at 16 a second, frame_interval is 16"),
        (
            19,
            {"bucket_strategy": "resolution_frames", "frame_interval": 16, "min_frames": 20},
            "too short: 19 frames at 16 a second, min_frames is 20",
        ),
        (201, {"max_frames": 200}, "too long: 201 frames at 16 a second, max_frames is 200"),
    ],
)
def test_other_lengths_are_refused(num_frames: int, options: dict[str, Any], reason: str) -> None:
    of = source(**options)
    with pytest.raises(ClipError) as caught:
        framed(832, 480, num_frames, of, "x")
    assert str(caught.value) == reason
    framed(832, 480, num_frames + (1 if "short" in reason else -1), of, "x")


@pytest.mark.parametrize(
    ("num_frames", "interval", "expected"),
    [(16, 16, 16), (31, 16, 16), (79, 16, 64), (80, 16, 80), (500, 16, 80), (500, 12, 72), (23, 12, 12), (200, 80, 80)],
)
def test_resolution_frames_floors_to_the_interval(num_frames: int, interval: int, expected: int) -> None:
    of = source(bucket_strategy="resolution_frames", frame_interval=interval)
    assert framed(832, 480, num_frames, of, "x")[0] == Bucket(832, 480, expected)
