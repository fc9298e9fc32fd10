"""Which picture of a file becomes which frame, and how it is turned, scaled and cropped. Pictures carry their number as a bar code."""

import tracemalloc
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.media.picture import centred
from ray_s2v.media.video import read_frames
from ray_s2v.media.write import write_video
from ray_s2v.schema import FRAME_RATE, ClipError, Framing

SIZE = 64
NUM_BITS = 8
WHOLE = centred(SIZE, SIZE, SIZE, SIZE)
TICK = Fraction(1, 90_000)


def bar_code(number: int) -> NDArray[np.uint8]:
    """Eight upright bars, white where the bit is set, the lowest bit at the left."""
    bits = (number >> np.arange(NUM_BITS)) & 1
    bars = np.repeat(bits * 255, SIZE // NUM_BITS).astype(np.uint8)
    return np.broadcast_to(bars[None, :, None], (SIZE, SIZE, 3)).copy()


def numbers_of(pictures: NDArray[np.uint8]) -> list[int]:
    bars = pictures.mean(axis=(1, 3)).reshape(len(pictures), NUM_BITS, -1).mean(axis=2)
    return [int(number) for number in ((bars > 127) << np.arange(NUM_BITS)).sum(axis=1)]


def nearest(times: Sequence[Fraction], frames: Sequence[int]) -> list[int]:
    """The closed form: the picture with the least distance to i / 16 s after the first, the earlier of two."""
    return [min(range(len(times)), key=lambda k: abs(times[k] - times[0] - Fraction(frame, FRAME_RATE))) for frame in frames]


def even_times(fps: Fraction, num_pictures: int) -> list[Fraction]:
    return [index / fps for index in range(num_pictures)]


def uneven_times(num_pictures: int) -> list[Fraction]:
    """Gaps of 8 to 120 ms; the first picture is not at zero."""
    gaps = np.random.default_rng(7).integers(750, 10_800, num_pictures)
    return [int(ticks) * TICK for ticks in np.cumsum(gaps)]


def write_bar_codes(path: Path, times: Sequence[Fraction], keyframe_every: int = 12) -> str:
    write_video(path, map(bar_code, range(len(times))), 25, times=times, preset="veryfast", keyframe_every=keyframe_every)
    return str(path)


def copy_turned(source: Path, target: Path, degrees: int, mirrored: bool) -> None:
    """The same packets with a display matrix."""
    with av.open(source) as reader, av.open(target, "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        stream.set_display_rotation(degrees, hflip=mirrored)
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)


def copy_packets(source: Path, target: Path) -> Path:
    """The same pictures in the container that the target's name says."""
    with av.open(source) as reader, av.open(target, "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)
    return target


def bytes_read() -> int:
    """What this process has read of files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


CLOCKS = {
    "24": even_times(Fraction(24), 120),
    "25": even_times(Fraction(25), 120),
    "29.97": even_times(Fraction(30_000, 1001), 150),
    "30": even_times(Fraction(30), 150),
    "60": even_times(Fraction(60), 240),
    "10": even_times(Fraction(10), 50),
    "variable": uneven_times(80),
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_frames_are_the_nearest_pictures_in_time(tmp_path: Path, clock: str) -> None:
    times = CLOCKS[clock]
    path = write_bar_codes(tmp_path / "clip.mp4", times)
    frames = range(int((times[-1] - times[0]) * FRAME_RATE) + 1)
    chosen = nearest(times, frames)
    assert numbers_of(read_frames(path, frames, WHOLE)) == chosen
    largest_gap = max(later - earlier for earlier, later in pairwise(times))
    errors = [abs(times[k] - times[0] - Fraction(frame, FRAME_RATE)) for frame, k in zip(frames, chosen, strict=True)]
    assert max(errors) <= largest_gap / 2


@pytest.mark.parametrize("clock", ["25", "variable"])
@pytest.mark.parametrize("keyframe_every", [5, 48, 1000])
def test_window_in_the_middle_equals_the_full_read(tmp_path: Path, clock: str, keyframe_every: int) -> None:
    path = write_bar_codes(tmp_path / "clip.mp4", CLOCKS[clock], keyframe_every)
    whole = read_frames(path, range(70), WHOLE)
    for window in ([1, 2, 3], range(33, 52), [13], [20, 20, 20, 41, 69, 69]):
        np.testing.assert_array_equal(read_frames(path, window, WHOLE), whole[list(window)])


@pytest.mark.parametrize("extension", ["ts", "mkv", "mov"])
def test_other_containers_seek_to_the_same_frames(tmp_path: Path, extension: str) -> None:
    """Seeking in a transport stream lands late near its start."""
    source = tmp_path / "clip.mp4"
    write_bar_codes(source, CLOCKS["25"])
    target = copy_packets(source, tmp_path / f"clip.{extension}")
    for window in (range(4), range(3, 9), range(40, 50)):
        np.testing.assert_array_equal(read_frames(str(target), window, WHOLE), read_frames(str(source), window, WHOLE), err_msg=str(window))


def test_last_picture_is_shown_until_its_end(tmp_path: Path) -> None:
    path = tmp_path / "slow.mp4"
    write_video(path, map(bar_code, range(4)), 2, preset="veryfast")  # 2 s: frames 0 to 31
    assert numbers_of(read_frames(str(path), [0, 24, 31], WHOLE)) == [0, 3, 3]
    with pytest.raises(ClipError, match="pictures end"):
        read_frames(str(path), [31, 32], WHOLE)


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_pictures_behind_the_end_are_black_where_asked(tmp_path: Path, extension: str) -> None:
    source = tmp_path / "clip.mp4"
    write_bar_codes(source, CLOCKS["25"])  # 4.8 s: frames 0 to 76
    path = str(copy_packets(source, tmp_path / f"copy.{extension}"))
    whole = read_frames(path, range(76), WHOLE)
    assert whole.reshape(76, -1).any(axis=1).sum() == 75, "picture 0 is black itself"
    for start, num_there in ((0, 76), (60, 16), (75, 1), (80, 0), (500, 0)):
        read = read_frames(path, range(start, start + 100), WHOLE, black_after_end=True)
        np.testing.assert_array_equal(read[:num_there], whole[start:])
        assert not read[num_there + 1 :].any()
        with pytest.raises(ClipError, match="pictures end"):
            read_frames(path, range(start, start + 100), WHOLE)


def test_truncated_file_gives_what_is_there_and_a_reason_past_the_cut(tmp_path: Path) -> None:
    """Only what the window needs is decoded: the cut does not hurt the frames before it."""
    source = tmp_path / "clip.mp4"
    path = write_bar_codes(source, CLOCKS["25"])
    whole = read_frames(path, range(70), WHOLE)
    content = source.read_bytes()
    header = content.index(b"mdat")
    source.write_bytes(content[: header + (len(content) - header) * 6 // 10])
    np.testing.assert_array_equal(read_frames(path, range(20), WHOLE), whole[:20])
    with pytest.raises(ClipError):
        read_frames(path, range(70), WHOLE)
    with pytest.raises(ClipError):
        read_frames(path, [69], WHOLE)


def test_what_lies_before_the_window_is_not_decoded(tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    path = write_bar_codes(source, CLOCKS["25"])
    whole = read_frames(path, range(70), WHOLE)
    content = bytearray(source.read_bytes())
    length = len(content) - content.index(b"mdat")
    content[-length * 8 // 10 : -length * 6 // 10] = bytes(length * 8 // 10 - length * 6 // 10)
    source.write_bytes(content)
    np.testing.assert_array_equal(read_frames(path, range(55, 70), WHOLE), whole[55:])
    with pytest.raises(ClipError, match="damaged"):
        read_frames(path, range(70), WHOLE)


def test_window_of_a_long_video_costs_what_the_window_is(tmp_path: Path) -> None:
    """Ten minutes with a keyframe every half minute: read are a few of its twenty parts, and held the pictures asked for."""
    path = tmp_path / "long.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (7, SIZE, SIZE, 3), np.uint8)
    write_video(path, (noise[index % 7] for index in range(2400)), 4, preset="ultrafast", keyframe_every=120)
    size = path.stat().st_size
    assert size > 10_000_000
    for start in (80, 4800, 9400):
        before = bytes_read()
        tracemalloc.start()
        pixels = read_frames(str(path), range(start, start + 80), WHOLE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        np.testing.assert_allclose(
            pixels[::4].mean(axis=(1, 2, 3)), noise.mean(axis=(1, 2, 3))[np.arange(start // 4, start // 4 + 20) % 7], atol=4
        )
        assert bytes_read() - before < size / 5
        assert peak < 1.5 * pixels.nbytes


def test_large_pictures_are_held_one_at_a_time(tmp_path: Path) -> None:
    """80 pictures of 1280 x 720 are 110 MB as they are decoded, and 1 MB as they are wanted."""
    path = tmp_path / "large.mp4"
    write_video(path, [np.full((720, 1280, 3), 90, np.uint8)] * 80, 16, preset="ultrafast")
    read_frames(str(path), [0], centred(1280, 720, 64, 64))
    Path("/proc/self/clear_refs").write_text("5")  # peak memory is counted from here
    before = peak_memory()
    assert read_frames(str(path), range(80), centred(1280, 720, 64, 64)).shape == (80, 64, 64, 3)
    assert peak_memory() - before < 60_000_000


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_turned_as_their_metadata_says(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32], picture[:16, 32:], picture[16:, :32] = (230, 30, 30), (30, 200, 30), (30, 30, 220)
    stored, turned = tmp_path / "stored.mp4", tmp_path / "turned.mp4"
    write_video(stored, [picture] * 3, 16, preset="veryfast")
    copy_turned(stored, turned, degrees, mirrored)
    expected = np.rot90(picture, degrees // 90)  # FFmpeg turns counterclockwise, then mirrors
    if mirrored:
        expected = np.fliplr(expected)
    height, width = expected.shape[:2]
    read = read_frames(str(turned), [0], centred(width, height, width, height))[0]
    assert np.abs(read.astype(int) - expected)[2:-2, 2:-2].mean() < 4


def test_crop_takes_the_centre_and_keeps_proportions(tmp_path: Path) -> None:
    """192 x 108 covers 64 x 64 at 114 x 64, of which columns 25 to 88 remain; a ramp of brightness tells the column."""
    ramp = np.broadcast_to(np.arange(192, dtype=np.uint8)[None, :, None], (108, 192, 3))
    path = tmp_path / "ramp.mp4"
    write_video(path, [ramp] * 3, 16, crf=1, preset="veryfast")
    assert centred(192, 108, 64, 64) == Framing(114, 64, 25, 0, 64, 64)
    read = read_frames(str(path), [0], centred(192, 108, 64, 64))[0].mean(axis=(0, 2))
    expected = (25 + np.arange(64) + 0.5) * 192 / 114 - 0.5
    np.testing.assert_allclose(read, expected, atol=2)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_box_is_cut_out_of_the_picture_as_shown(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    stored, turned = tmp_path / "stored.mp4", tmp_path / "turned.mp4"
    picture = np.random.default_rng(3).integers(0, 255, (6, 8, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    write_video(stored, [picture] * 3, 16, preset="veryfast")
    copy_turned(stored, turned, degrees, mirrored)
    width, height = (72, 54) if degrees % 180 == 0 else (54, 72)
    whole = read_frames(str(turned), [1], Framing(width, height, 0, 0, width, height))
    assert whole.shape == (1, height, width, 3)
    for left, top in ((0, 0), (5, 0), (0, 9), (width - 32, height - 40)):
        box = read_frames(str(turned), [1], Framing(width, height, left, top, 32, 40))
        np.testing.assert_array_equal(box, whole[:, top : top + 40, left : left + 32])


@pytest.mark.parametrize(
    ("shown", "size", "framing"),
    [
        ((832, 480), (832, 480), (832, 480, 0, 0, 832, 480)),
        ((1920, 1080), (832, 480), (853, 480, 10, 0, 832, 480)),
        ((1080, 1920), (832, 480), (832, 1479, 0, 499, 832, 480)),
        ((100, 100), (64, 128), (128, 128, 32, 0, 64, 128)),
        ((1001, 7), (64, 64), (9152, 64, 4544, 0, 64, 64)),
    ],
)
def test_centred_covers_the_size_as_tightly_as_whole_pixels_allow(
    shown: tuple[int, int], size: tuple[int, int], framing: tuple[int, ...]
) -> None:
    assert centred(*shown, *size) == framing


def test_stored_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    """64 x 64 stored with pixels twice as wide as high shows 128 x 64; its middle half fills a square."""
    ramp = np.broadcast_to(np.arange(0, 192, 3, dtype=np.uint8)[None, :, None], (64, 64, 3)).copy()
    path = tmp_path / "anamorphic.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(ramp)))
        container.mux(stream.encode(None))
    read = read_frames(str(path), [0], centred(128, 64, 64, 64))[0].mean(axis=(0, 2))
    expected = 3 * ((32 + np.arange(64) + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(read, expected, atol=3)


@pytest.mark.parametrize("colour", [(200, 30, 40), (30, 180, 60), (40, 60, 220), (255, 255, 255), (0, 0, 0), (120, 120, 120)])
def test_colours_survive_writing_and_reading(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    path = tmp_path / "colour.mp4"
    write_video(path, [np.full((64, 64, 3), colour, np.uint8)] * 3, 16, preset="veryfast")
    assert np.abs(read_frames(str(path), [0], WHOLE)[0].astype(int) - colour).max() <= 3


def test_full_range_of_another_colour_matrix_is_respected(tmp_path: Path) -> None:
    """A phone's full-range BT.601 file: read as limited range its grey of 40 would come out near 28."""
    path = tmp_path / "full.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=16, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        stream.codec_context.color_range, stream.codec_context.colorspace = 2, 6
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), (200, 40, 40), np.uint8))
        for _ in range(3):
            container.mux(stream.encode(picture.reformat(format="yuvj420p", dst_colorspace="itu601", dst_color_range="JPEG")))
        container.mux(stream.encode(None))
    assert np.abs(read_frames(str(path), [0], WHOLE)[0].astype(int) - (200, 40, 40)).max() <= 4


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def pictures() -> Iterator[NDArray[np.uint8]]:
        yield bar_code(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "clip.mp4", pictures(), 16)
    assert list(tmp_path.iterdir()) == []


def test_as_many_times_as_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        write_video(tmp_path / "clip.mp4", map(bar_code, range(3)), 16, times=even_times(Fraction(16), 2))
