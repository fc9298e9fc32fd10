"""Rows of the plan to pictures and sound, on a clip whose pictures tell their own time."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.data.decode import decoded_sound, decoded_video, pose_frames, window_frames
from ray_s2v.media.write import write_video
from ray_s2v.schema import SAMPLE_RATE, SAMPLES_PER_FRAME
from tests.clips import tone, write_wav

SIZE = 64
NUM_FRAMES = 100  # at 16 a second
FPS = 32  # so that frame i is picture 2 i, whatever is rounded
BASE = 15
AAC_PIECE = 1024  # samples


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
    sound = np.where(times < times[-1] / 2, 0, 0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    write_video(path, map(numbered, range(num_pictures)), Fraction(FPS), sound, preset="ultrafast")
    return path


def row(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "step": 3,
        "slot": 1,
        "clip_id": "decode/clip.mp4",
        "video": str(path),
        "video_digest": "of the clip",
        "audio": str(path),
        "audio_digest": "of the clip",
        "pose": "",
        "pose_digest": "",
        "caption": "digits",
        "kind": "first",
        "scaled_width": SIZE,
        "scaled_height": SIZE,
        "left": 0,
        "top": 0,
        "width": SIZE,
        "height": SIZE,
        "clip_frames": NUM_FRAMES,
        "start_frame": 0,
        "num_frames": 16,
        "reference_frame": 50,
        "heard_start": 0,
        "heard_frames": 0,
        "drop_audio": False,
        "noise_level": 0.25,
        "noise_seed": 9,
    } | changes


def numbers_of(pictures: NDArray[np.uint8]) -> list[int]:
    numbers = [number_of(picture) for picture in pictures]
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
    found = decoded_video(row(clip, start_frame=start))
    assert found["video_error"] == ""
    assert not found["video_lost"]
    assert numbers_of(found["pixels"]) == [max(start - 1, 0), *range(start, start + 16)]
    assert found["missing_frames"] == 0


@pytest.mark.parametrize(("start", "history"), [(13, 13), (72, 72), (73, 73), (84, 73)])
def test_continuation_has_as_much_history_as_there_is(clip: Path, start: int, history: int) -> None:
    found = decoded_video(row(clip, kind="continuation", start_frame=start))
    assert found["video_error"] == ""
    assert numbers_of(found["pixels"]) == [*range(start - history, start + 16)]
    assert found["missing_frames"] == 73 - history


@pytest.mark.parametrize("frame", [0, 99])
def test_reference_is_one_frame_wherever_it_lies(clip: Path, frame: int) -> None:
    found = decoded_video(row(clip, start_frame=30, reference_frame=frame))
    assert found["reference_pixels"].shape == (1, SIZE, SIZE, 3)
    assert numbers_of(found["reference_pixels"]) == [frame]
    assert "pose_pixels" not in found


@pytest.mark.parametrize("kind", ["first", "continuation"])
def test_pose_is_the_window_with_its_first_frame_twice(clip: Path, kind: str) -> None:
    assert pose_frames(30, 4) == [30, 30, 31, 32, 33]
    found = decoded_video(row(clip, kind=kind, start_frame=30, pose=str(clip)))
    assert found["video_error"] == ""
    assert numbers_of(found["pose_pixels"]) == [30, *range(30, 46)]


def test_pose_that_cannot_be_read_blanks_the_clip(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "pose.mp4").write_text("no video")
    found = decoded_video(row(clip, start_frame=30, pose=str(tmp_path / "pose.mp4")))
    assert "not a media file" in found["video_error"]
    assert found["pose_pixels"].shape == (17, SIZE, SIZE, 3)
    assert not any(found[name].any() for name in ("pixels", "reference_pixels", "pose_pixels"))


def test_sound_is_heard_whole_and_in_step_with_the_pictures(clip: Path) -> None:
    found = decoded_sound(row(clip, start_frame=30))
    assert (found["speech_error"], found["speech_lost"]) == ("", False)
    sound = found["waveform"]
    assert sound.dtype == np.float32
    # The whole clip's and not the window's, in step with the pictures to one piece of AAC.
    assert abs(len(sound) - NUM_FRAMES * SAMPLES_PER_FRAME) <= AAC_PIECE
    half = NUM_FRAMES * SAMPLES_PER_FRAME // 2
    assert np.abs(sound[: half - AAC_PIECE]).max() < 0.01
    spectrum = np.abs(np.fft.rfft(sound[half + AAC_PIECE :]))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(sound[half + AAC_PIECE :]) == pytest.approx(440, abs=1)


def test_part_of_the_sound_that_is_heard(clip: Path) -> None:
    """Only its frames, wherever the window lies in them; up to the end where there are no more."""
    whole = decoded_sound(row(clip))["waveform"]
    part = decoded_sound(row(clip, start_frame=44, heard_start=40, heard_frames=32))["waveform"]
    assert len(part) == 32 * SAMPLES_PER_FRAME
    np.testing.assert_allclose(part, whole[40 * SAMPLES_PER_FRAME : 72 * SAMPLES_PER_FRAME], atol=1e-6)
    last = decoded_sound(row(clip, start_frame=84, heard_start=80, heard_frames=32))["waveform"]
    np.testing.assert_allclose(last, whole[80 * SAMPLES_PER_FRAME :], atol=1e-6)


def test_sound_of_its_own_file_has_its_own_clock(clip: Path, tmp_path: Path) -> None:
    sound = tone(2 * SAMPLE_RATE, peak=0.25)
    write_wav(tmp_path / "sound.wav", sound)
    found = decoded_sound(row(clip, audio=str(tmp_path / "sound.wav"), audio_digest="of the sound"))
    assert found["speech_error"] == ""
    np.testing.assert_allclose(found["waveform"], sound, atol=1 / 32767)


def test_clip_without_sound_has_an_empty_waveform(clip: Path) -> None:
    found = decoded_sound(row(clip, audio="", audio_digest=""))
    assert found["waveform"].shape == (0,)
    assert found["waveform"].dtype == np.float32
    assert (found["speech_error"], found["speech_lost"]) == ("", False)


def test_pictures_are_scaled_and_cut_to_the_buckets_size(tmp_path: Path) -> None:
    """Four colours, of which the cut takes the upper right one."""
    size, colours = 128, np.array([[200, 40], [90, 150]], np.uint8)
    picture = np.kron(colours, np.ones((size // 2, size // 2), np.uint8))[..., None].repeat(3, axis=2)
    write_video(tmp_path / "x.mp4", [picture] * 40, Fraction(16), preset="ultrafast")
    cut = {"scaled_width": 256, "scaled_height": 192, "left": 150, "top": 6, "width": 96, "height": 80}
    found = decoded_video(row(tmp_path / "x.mp4", reference_frame=20, pose=str(tmp_path / "x.mp4"), **cut))
    for name, count in (("pixels", 17), ("reference_pixels", 1), ("pose_pixels", 17)):
        assert found[name].shape == (count, 80, 96, 3)
        assert found[name].dtype == np.uint8
        assert np.abs(found[name].astype(int) - 40).max() < 10


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
    write_video(folder / "shorter.mp4", map(numbered, range(16)), Fraction(16), tone(SAMPLE_RATE, peak=0.1), preset="ultrafast")
    return folder / "shorter.mp4"


@pytest.mark.parametrize(
    ("kind", "start", "num_pictures", "missing"), [("first", 60, 17, 0), ("continuation", 60, 76, 13), ("continuation", 84, 89, 0)]
)
@pytest.mark.parametrize("broken", [gone, truncated, empty, no_video, shorter])
def test_clip_that_cannot_be_read_keeps_its_place(
    clip: Path, tmp_path: Path, broken: Any, kind: str, start: int, num_pictures: int, missing: int
) -> None:
    cut = {"scaled_width": 96, "scaled_height": 96, "width": 96, "height": 80}
    given = row(broken(clip, tmp_path), kind=kind, start_frame=start, pose=str(clip), heard_start=start, heard_frames=40, **cut)
    found = decoded_video(given)
    assert found["video_error"] != ""
    assert found["video_lost"] == (broken is gone), "a disk may come back, a broken file not"
    assert found["missing_frames"] == missing
    for name, count in (("pixels", num_pictures), ("reference_pixels", 1), ("pose_pixels", 17)):
        assert found[name].shape == (count, 80, 96, 3)
        assert found[name].dtype == np.uint8
        assert not found[name].any()
    assert found.keys() == decoded_video(row(clip, pose=str(clip))).keys()

    heard = decoded_sound(given)
    assert heard["speech_error"] != ""
    assert heard["speech_lost"] == (broken is gone)
    assert heard["waveform"].dtype == np.float32
    assert len(heard["waveform"]) > 0
    assert not heard["waveform"].any()
    assert heard.keys() == decoded_sound(row(clip)).keys()


def test_what_is_found_takes_no_name_of_the_plans(clip: Path) -> None:
    """It joins the row."""
    given = row(clip, pose=str(clip))
    before = dict(given)
    video, sound = decoded_video(given), decoded_sound(given)
    assert given == before
    assert len(given | video | sound) == len(given) + len(video) + len(sound)


def test_reference_that_is_gone_blanks_the_pictures(clip: Path) -> None:
    found = decoded_video(row(clip, reference_frame=NUM_FRAMES + 50))
    assert "before a wanted frame" in found["video_error"]
    assert not found["pixels"].any()
    assert not found["reference_pixels"].any()
