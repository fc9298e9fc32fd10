"""The sheet shows what media reads, at the places that its measures give. Pictures carry their number as a bar code."""

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ray_s2v.data.plan import Plan
from ray_s2v.media.video import read_frames
from ray_s2v.media.write import write_video
from ray_s2v.reporting import contact_sheet as sheet
from ray_s2v.schema import FRAME_RATE, SAMPLE_RATE, Bucket, Framing, Kind, Media, PlanRow
from tests.plans import clip, job, many

SIZE = 64
NUM_BITS = 8
CELL_HEIGHT = sheet.LABEL_HEIGHT + SIZE + sheet.SOUND_GAP + sheet.SOUND_HEIGHT + sheet.TIMES_HEIGHT + sheet.CELL_GAP
PICTURES_TOP = sheet.HEADING_HEIGHT + sheet.LABEL_HEIGHT  # of the first cell of a sheet
SOUND_TOP = PICTURES_TOP + SIZE + sheet.SOUND_GAP
SLOT = sheet.STRIP_WIDTH // 8


def bar_code(number: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Eight upright bars, white where the bit is set, the lowest bit at the left."""
    bars = np.repeat((number >> np.arange(NUM_BITS)) & 1, size // NUM_BITS) * 255
    return np.broadcast_to(bars.astype(np.uint8)[None, :, None], (size, size, 3)).copy()


def number_of(picture: NDArray[np.uint8]) -> int:
    bars = picture.mean(axis=(0, 2)).reshape(NUM_BITS, -1).mean(axis=1)
    return int(((bars > 127) << np.arange(NUM_BITS)).sum())


def write_clip(folder: Path, samples: NDArray[np.float32], num_pictures: int = 48) -> tuple[str, str]:
    """Places of a video of bar codes, one a frame, and of its sound as WAV."""
    video, audio = folder / "clip.mp4", folder / "clip.wav"
    write_video(video, map(bar_code, range(num_pictures)), FRAME_RATE, preset="ultrafast")
    with wave.open(str(audio), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return str(video), str(audio)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Three seconds with a click after 1.75 s, and the sound ends at 2.5 s."""
    samples = np.zeros(int(2.5 * SAMPLE_RATE), np.float32)
    samples[int(1.75 * SAMPLE_RATE)] = 0.5
    return write_clip(tmp_path_factory.mktemp("clips"), samples)


def row(video: str, audio: str = "", kind: Kind = "first", **changes: Any) -> PlanRow:
    whole = PlanRow(
        step=0,
        slot=0,
        clip_id="clips/clip.mp4",
        video=video,
        video_digest="",
        audio=audio,
        audio_digest="",
        pose="",
        pose_digest="",
        caption="a bar code talks",
        kind=kind,
        scaled_width=SIZE,
        scaled_height=SIZE,
        left=0,
        top=0,
        width=SIZE,
        height=SIZE,
        clip_frames=48,
        start_frame=20,
        num_frames=16,
        reference_frame=3,
        heard_start=0,
        heard_frames=0,
        drop_audio=False,
        noise_level=0.5,
        noise_seed=1,
    )
    return PlanRow(**(whole | changes))  # type: ignore[typeddict-item]


def drawn(folder: Path, rows: Sequence[PlanRow]) -> NDArray[np.uint8]:
    """The sheet of rows of one bucket: [height, width, 3]."""
    out = folder / "sheet.png"
    sheet.contact_sheet({Bucket(rows[0]["width"], rows[0]["height"], rows[0]["num_frames"]): rows}, out)
    with Image.open(out) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return np.asarray(picture)


def test_size_is_the_sum_of_its_parts(tmp_path: Path, places: tuple[str, str]) -> None:
    pixels = drawn(tmp_path, [row(*places), row(*places, kind="continuation")])
    assert pixels.shape == (sheet.HEADING_HEIGHT + 2 * CELL_HEIGHT + sheet.MARGIN, sheet.SHEET_WIDTH, 3)
    assert sheet.SHEET_WIDTH == 1888


def test_frames_stand_in_their_order_and_the_reference_beside_them(tmp_path: Path, places: tuple[str, str]) -> None:
    pixels = drawn(tmp_path, [row(*places)])
    expected = [21, 23, 25, 27, 29, 31, 33, 35]  # of 16 frames from 20 on, the middle of each eighth
    wanted = read_frames(places[0], [3, *expected], Framing(SIZE, SIZE, 0, 0, SIZE, SIZE))
    lefts = [sheet.MARGIN + (sheet.SLOT - SIZE) // 2, *(sheet.STRIP_LEFT + i * SLOT + (SLOT - SIZE) // 2 for i in range(8))]
    for number, picture, left in zip([3, *expected], wanted, lefts, strict=True):
        block = pixels[PICTURES_TOP : PICTURES_TOP + SIZE, left : left + SIZE]
        assert number_of(block) == number
        np.testing.assert_array_equal(block, picture)


@pytest.mark.parametrize(
    ("num_frames", "frames"),
    [
        (80, [5, 15, 25, 35, 45, 55, 65, 75]),
        (16, [1, 3, 5, 7, 9, 11, 13, 15]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (4, [0, 1, 2, 3]),
    ],
)
def test_frames_are_spread_evenly(num_frames: int, frames: list[int]) -> None:
    assert sheet.shown_frames(num_frames) == frames


def test_picture_is_cut_as_the_row_says_and_shrunk_to_a_tile(tmp_path: Path) -> None:
    left_red = np.zeros((480, 800, 3), np.uint8)
    left_red[:, :400, 0], left_red[:, 400:, 2] = 255, 255
    write_video(tmp_path / "wide.mp4", [left_red] * 32, FRAME_RATE, preset="ultrafast")
    wide = row(str(tmp_path / "wide.mp4"), scaled_width=800, scaled_height=480, width=640, height=480, left=160, start_frame=0)
    pixels = drawn(tmp_path, [wide])
    left, height = sheet.STRIP_LEFT + (SLOT - 200) // 2, 150  # 640x480 becomes 200x150, the seam at 240 of 640
    tile = pixels[PICTURES_TOP : PICTURES_TOP + height, left : left + 200].astype(int)
    is_red = tile[..., 0] > tile[..., 2]
    assert is_red[:, :73].all()
    assert not is_red[:, 77:].any()
    assert (pixels[PICTURES_TOP + height, left : left + 200] == 255).sum() > 190 * 3  # paper again


def ink_columns(pixels: NDArray[np.uint8], colour: str, top: int = SOUND_TOP) -> NDArray[np.int64]:
    """How many pixels of the colour each column of the sound's strip has."""
    red_green_blue = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    strip = pixels[top : top + sheet.SOUND_HEIGHT, sheet.STRIP_LEFT : sheet.STRIP_LEFT + sheet.STRIP_WIDTH]
    return np.count_nonzero((strip == red_green_blue).all(axis=2), axis=0)


def test_click_stands_at_its_time(tmp_path: Path, places: tuple[str, str]) -> None:
    columns = ink_columns(drawn(tmp_path, [row(*places)]), sheet.WAVE)
    assert columns.argmax() == int((1.75 - 20 / 16) / 1.0 * sheet.STRIP_WIDTH)
    assert columns.max() == sheet.SOUND_HEIGHT // 2  # the loudest sample fills the upper half
    others = np.delete(columns, columns.argmax())
    assert set(others.tolist()) == {1}  # a line of silence


def test_sound_that_ends_within_the_window_goes_on_as_silence(tmp_path: Path, places: tuple[str, str]) -> None:
    columns = ink_columns(drawn(tmp_path, [row(*places, start_frame=24, num_frames=24)]), sheet.WAVE)  # 1.5 to 3 s
    assert columns.argmax() == int((1.75 - 1.5) / 1.5 * sheet.STRIP_WIDTH)
    assert set(np.delete(columns, columns.argmax()).tolist()) == {1}


def test_frames_are_marked_where_they_are_in_the_sound(tmp_path: Path, places: tuple[str, str]) -> None:
    marks = np.flatnonzero(ink_columns(drawn(tmp_path, [row(*places)]), sheet.FAINT) == sheet.SOUND_HEIGHT - 1)
    assert marks.tolist() == [frame * sheet.STRIP_WIDTH // 16 for frame in range(1, 16, 2)]
    assert marks.tolist() == [index * SLOT + SLOT // 2 for index in range(8)]  # below the middle of each picture


def test_waveform_of_a_ramp() -> None:
    samples = np.linspace(-1, 1, 16_000, dtype=np.float32)
    ink = sheet.waveform(samples) == 255
    assert ink.shape == (sheet.SOUND_HEIGHT, sheet.STRIP_WIDTH)
    middle = sheet.SOUND_HEIGHT // 2
    assert ink[middle].all()  # the line of zero
    assert not ink[:middle, :800].any()  # negative in the first half, below the line
    assert not ink[middle + 1 :, 832:].any()
    assert np.count_nonzero(ink[:, 0]) == np.count_nonzero(ink[:, -1]) == middle
    heights = ink.sum(axis=0)
    assert abs(int(heights[sheet.STRIP_WIDTH // 4]) - (middle // 2 + 1)) <= 1


def test_dropped_sound_is_pale_and_no_sound_is_blank(tmp_path: Path, places: tuple[str, str]) -> None:
    dropped = drawn(tmp_path, [row(*places, drop_audio=True)])
    assert ink_columns(dropped, sheet.WAVE).sum() == 0
    assert ink_columns(dropped, sheet.DROPPED).max() == sheet.SOUND_HEIGHT // 2
    silent = drawn(tmp_path, [row(places[0])])
    assert ink_columns(silent, sheet.WAVE).sum() == 0
    assert (dropped[SOUND_TOP:, : sheet.STRIP_LEFT] != silent[SOUND_TOP:, : sheet.STRIP_LEFT]).any()  # the words say so


@pytest.mark.parametrize("bad", ["video", "audio", "end"])
def test_clip_that_cannot_be_read_shows_its_reason(tmp_path: Path, places: tuple[str, str], bad: str) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    no_file, far = str(tmp_path / "text.mp4"), {"start_frame": 40} if bad == "end" else {}
    broken = row(no_file if bad == "video" else places[0], no_file if bad == "audio" else places[1], **far)
    reason = sheet.read_row(broken)
    assert isinstance(reason, str)
    assert reason
    pixels = drawn(tmp_path, [broken, row(*places)])
    wrong_height = sheet.LABEL_HEIGHT + sheet.TIMES_HEIGHT + sheet.CELL_GAP
    assert len(pixels) == sheet.HEADING_HEIGHT + wrong_height + CELL_HEIGHT + sheet.MARGIN
    is_red = (pixels[..., 0].astype(int) - pixels[..., 1] > 80).any(axis=1)
    assert is_red[PICTURES_TOP : PICTURES_TOP + 20].any()
    assert number_of(pixels[PICTURES_TOP + wrong_height :, sheet.STRIP_LEFT + (SLOT - SIZE) // 2 :][:SIZE, :SIZE]) == 21


@pytest.mark.parametrize(
    "caption", ["größer 顔 🙂 مرحبا", "two\nlines\tand a tab", "a\0b \x1b[31m", "\udcff", "", "word " * 1000, "x" * 5000, "顔" * 5000]
)
def test_any_words_stay_in_their_lines(tmp_path: Path, places: tuple[str, str], caption: str) -> None:
    odd = drawn(tmp_path, [row(*places, caption=caption, clip_id=f"clips/{caption}.mp4")])
    plain = drawn(tmp_path, [row(*places)])
    assert odd.shape == plain.shape
    lines = slice(sheet.HEADING_HEIGHT, PICTURES_TOP)
    assert (odd[lines] != plain[lines]).any()
    assert (odd[lines, -sheet.MARGIN :] == 255).all()
    np.testing.assert_array_equal(odd[PICTURES_TOP:], plain[PICTURES_TOP:])
    np.testing.assert_array_equal(odd[: sheet.HEADING_HEIGHT], plain[: sheet.HEADING_HEIGHT])


def test_sheet_of_a_plan(tmp_path: Path, places: tuple[str, str]) -> None:
    video, audio = (Media(place, place) for place in places)
    clips = [clip(f"clips/{i}", 48, Bucket(SIZE, SIZE, 16), video=video, audio=audio, audio_s=2.5) for i in range(4)]
    sheet.draw_contact_sheet(Plan.of(job(sources=[{"num_frames": 16}]), clips), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (sheet.SHEET_WIDTH, sheet.HEADING_HEIGHT + 3 * CELL_HEIGHT + sheet.MARGIN)


def test_same_rows_make_the_same_file(tmp_path: Path, places: tuple[str, str]) -> None:
    for name in ("a.png", "b.png"):
        sheet.contact_sheet({Bucket(SIZE, SIZE, 16): [row(*places)]}, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def planned(buckets: dict[Bucket, tuple[int, int]], slots: int = 2, continuation: float = 0.5) -> Plan:
    """A plan of so many short and so many long clips of each bucket."""
    clips = [
        clip(f"clips/{bucket}/{length}/{index}", length, bucket)
        for bucket, counts in buckets.items()
        for length, count in zip((16, 100), counts, strict=True)
        for index in range(count)
    ]
    return Plan.of(job(slots, continuation=continuation, sources=[{"num_frames": 16}]), clips)


@pytest.mark.parametrize(
    ("counts", "settings", "kinds"),
    [
        ((6, 8), {}, ["first", "first", "continuation"]),
        ((8, 0), {}, ["first"] * 3),
        ((0, 8), {"continuation": 1.0}, ["continuation"] * 3),
        ((0, 8), {"continuation": 0.0}, ["first"] * 3),
        ((2, 0), {}, ["first"] * 2),
        ((8, 4), {"slots": 1}, ["first", "first", "continuation"]),
    ],
)
def test_rows_of_both_kinds_and_of_different_clips(counts: tuple[int, int], settings: dict[str, Any], kinds: list[str]) -> None:
    wide, high = Bucket(128, 64, 16), Bucket(64, 128, 16)
    plan = planned({wide: counts, high: (4, 0)}, **settings)
    rows = sheet.rows_to_show(plan)
    assert [row["kind"] for row in rows[wide]] == kinds
    assert [row["kind"] for row in rows[high]] == ["first"] * 3
    all_of_epoch = list(plan.rows(0, plan.steps_per_epoch))
    for bucket, of_bucket in rows.items():
        assert len({row["clip_id"] for row in of_bucket}) == len(of_bucket)
        assert all(row in all_of_epoch and Bucket(row["width"], row["height"], row["num_frames"]) == bucket for row in of_bucket)


def test_clip_seen_often_in_an_epoch_is_shown_once() -> None:
    bucket = Bucket(64, 64, 16)
    clips = many(2, 16, bucket)
    rows = sheet.rows_to_show(Plan.of(job(slots=1, sources=[{"num_frames": 16, "repeats": 9}]), clips))
    assert {row["clip_id"] for row in rows[bucket]} <= {clip.clip_id for clip in clips}
    assert len({row["clip_id"] for row in rows[bucket]}) == len(rows[bucket])


@pytest.mark.parametrize(("num_buckets", "rows_of_each", "shown"), [(20, 3, 20), (25, 2, 25), (40, 1, 40), (70, 1, 60)])
def test_sheet_of_many_buckets_stays_small(num_buckets: int, rows_of_each: int, shown: int) -> None:
    sizes = {Bucket(64 + 16 * index, 64, 16): (4 + index, 0) for index in range(num_buckets)}
    rows = sheet.rows_to_show(planned(sizes))
    assert list(rows) == sorted(sizes)[-shown:]  # those of the most clips
    assert {len(of_bucket) for of_bucket in rows.values()} == {rows_of_each}
