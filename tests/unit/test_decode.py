"""Rows of the plan to pictures and sound, on a clip whose pictures tell their own time."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.data.decode import decoded, window_frames
from ray_s2v.media.write import write_video
from ray_s2v.schema import SAMPLE_RATE

SIZE = 64
NUM_FRAMES = 100  # at 16 a second
FPS = 32  # so that frame i is picture 2 i, whatever is rounded
BASE = 15


def numbered(number: int) -> NDArray[np.uint8]:
    """A picture whose left half tells the number's first digit to the base 15 and whose right half the last."""
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    picture[:, : SIZE // 2], picture[:, SIZE // 2 :] = (20 + 14 * digit for digit in divmod(number, BASE))
    return picture


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number that a picture tells."""
    margin = 8
    halves = picture[margin:-margin, margin : SIZE // 2 - margin], picture[margin:-margin, SIZE // 2 + margin : -margin]
    first, last = (round((float(half.mean()) - 20) / 14) for half in halves)
    return first * BASE + last


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Silent for its first half, a tone of 440 Hz in its second."""
    path = tmp_path_factory.mktemp("decode") / "clip.mp4"
    num_pictures = NUM_FRAMES * FPS // 16
    times = np.arange(num_pictures * SAMPLE_RATE // FPS) / SAMPLE_RATE
    tone = np.where(times < times[-1] / 2, 0, 0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    write_video(path, map(numbered, range(num_pictures)), Fraction(FPS), tone, preset="ultrafast")
    return path


def row(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "step": 3,
        "slot": 1,
        "clip_id": "decode/clip.mp4",
        "path": str(path),
        "caption": "digits",
        "kind": "first",
        "width": SIZE,
        "height": SIZE,
        "start_frame": 0,
        "num_frames": 16,
        "reference_frame": 50,
        "drop_audio": False,
        "noise_level": 0.25,
        "noise_seed": 9,
    } | changes


def frames_of(result: dict[str, Any]) -> list[int]:
    numbers = [number_of(picture) for picture in result["pixels"]]
    assert all(number % 2 == 0 for number in numbers)
    return [number // 2 for number in numbers]


@pytest.mark.parametrize(
    ("kind", "start", "num_frames", "expected", "missing"),
    [
        ("first", 0, 80, [0, *range(80)], 0),
        ("first", 1, 4, [0, 1, 2, 3, 4], 0),
        ("first", 200, 80, [*range(199, 280)], 0),
        ("continuation", 73, 80, [*range(153)], 0),
        ("continuation", 100, 80, [*range(27, 180)], 0),
        ("continuation", 13, 16, [*range(29)], 60),
        ("continuation", 72, 16, [*range(88)], 1),
        ("continuation", 1, 4, [*range(5)], 72),
    ],
)
def test_frames_of_a_window(kind: str, start: int, num_frames: int, expected: list[int], missing: int) -> None:
    assert window_frames(kind, start, num_frames) == (expected, missing)


@pytest.mark.parametrize("start", [0, 1, 50, 84])
def test_first_clip_has_its_window_after_the_frame_before_it(clip: Path, start: int) -> None:
    result = decoded(row(clip, start_frame=start))
    assert result["error"] == ""
    assert frames_of(result) == [max(start - 1, 0), *range(start, start + 16)]
    assert result["missing_frames"] == 0


@pytest.mark.parametrize(("start", "history"), [(13, 13), (72, 72), (73, 73), (84, 73)])
def test_continuation_has_as_much_history_as_there_is(clip: Path, start: int, history: int) -> None:
    result = decoded(row(clip, kind="continuation", start_frame=start))
    assert result["error"] == ""
    assert frames_of(result) == [*range(start - history, start + 16)]
    assert result["missing_frames"] == 73 - history


def test_reference_and_sound(clip: Path) -> None:
    given = row(clip, start_frame=30, reference_frame=99)
    result = decoded(given)
    assert result["reference_pixels"].shape == (1, SIZE, SIZE, 3)
    assert number_of(result["reference_pixels"][0]) == 2 * 99
    sound = result["waveform"]
    assert sound.dtype == np.float32
    # The whole clip's and not the window's, in step with the pictures to one piece of AAC.
    assert abs(len(sound) - NUM_FRAMES * SAMPLE_RATE // 16) <= 1024
    half = NUM_FRAMES * SAMPLE_RATE // 32
    assert np.abs(sound[: half - 1024]).max() < 0.01
    spectrum = np.abs(np.fft.rfft(sound[half + 1024 :]))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(sound[half + 1024 :]) == pytest.approx(440, abs=1)
    assert {name: result[name] for name in given} == given


def test_pictures_come_in_the_bucket_size(clip: Path) -> None:
    result = decoded(row(clip, width=96, height=80))
    assert result["pixels"].shape == (17, 80, 96, 3)
    assert result["pixels"].dtype == np.uint8
    assert result["reference_pixels"].shape == (1, 80, 96, 3)


def gone(clip: Path, folder: Path) -> Path:
    return folder / "gone.mp4"


def truncated(clip: Path, folder: Path) -> Path:
    content = clip.read_bytes()
    (folder / "truncated.mp4").write_bytes(content[: len(content) // 2])
    return folder / "truncated.mp4"


def empty(clip: Path, folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def no_video(clip: Path, folder: Path) -> Path:
    (folder / "text.mp4").write_text("This is no video.")
    return folder / "text.mp4"


def shorter(clip: Path, folder: Path) -> Path:
    """A file that was replaced since it was examined."""
    tone = np.full(SAMPLE_RATE, 0.1, np.float32)
    write_video(folder / "shorter.mp4", map(numbered, range(16)), Fraction(16), tone, preset="ultrafast")
    return folder / "shorter.mp4"


@pytest.mark.parametrize(
    ("kind", "start", "num_pictures", "missing"), [("first", 60, 17, 0), ("continuation", 60, 76, 13), ("continuation", 84, 89, 0)]
)
@pytest.mark.parametrize("broken", [gone, truncated, empty, no_video, shorter])
def test_clip_that_cannot_be_read_keeps_its_place(
    clip: Path, tmp_path: Path, broken: Any, kind: str, start: int, num_pictures: int, missing: int
) -> None:
    given = row(broken(clip, tmp_path), kind=kind, start_frame=start, width=96, height=80)
    result = decoded(given)
    assert result["error"] != ""
    assert result["missing_frames"] == missing
    for name, shape in (("pixels", (num_pictures, 80, 96, 3)), ("reference_pixels", (1, 80, 96, 3))):
        assert result[name].shape == shape
        assert result[name].dtype == np.uint8
        assert not result[name].any()
    assert result["waveform"].dtype == np.float32
    assert len(result["waveform"]) > 0
    assert not result["waveform"].any()
    assert {name: result[name] for name in given} == given
    assert result.keys() == decoded(row(clip)).keys()


def test_reference_that_is_gone_blanks_everything(clip: Path) -> None:
    result = decoded(row(clip, reference_frame=NUM_FRAMES + 50))
    assert result["error"] != ""
    assert not result["pixels"].any()
    assert not result["waveform"].any()
