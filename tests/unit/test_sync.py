"""Lips and voice: a flash and a click at the same moment of the file are at the same moment of what is trained on.

A frame i stands for the moment i / 16 s and shows the picture nearest to it, so with gaps of at most g between pictures its picture
is at most g / 2 away. The sound is exact but for resampling, at most a millisecond.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.media.audio import read_audio
from ray_s2v.media.picture import centred
from ray_s2v.media.video import read_frames
from ray_s2v.media.write import write_video
from ray_s2v.schema import FRAME_RATE, SAMPLE_RATE

LENGTH_S = 4
SOURCE_RATE = 48_000
CLICK_ERROR_S = 0.001
EVENT_FRAMES = (7, 22, 39, 52)  # where a flash is looked for
STARTS = (0, 4, 20, 33)  # windows of 20 frames
OFFSETS = [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (0.2, 0.35)]  # seconds at which pictures and sound begin


def picture_times(clock: str) -> list[Fraction]:
    """Seconds after the first picture; `variable` has gaps of 1/60 to 1/15 s."""
    if clock == "variable":
        ticks = np.cumsum(np.random.default_rng(1).integers(1500, 6000, 200))
        return [Fraction(0), *(Fraction(int(tick), 90_000) for tick in ticks if tick < LENGTH_S * 90_000)]
    fps = Fraction(clock)
    return [index / fps for index in range(int(LENGTH_S * fps))]


def half_gap_s(times: Sequence[Fraction]) -> float:
    return float(max(later - earlier for earlier, later in pairwise(times))) / 2


def write_events(
    path: Path, times: Sequence[Fraction], white: NDArray[np.bool_], clicks_s: Sequence[float], video_start_s: float, sound_start_s: float
) -> str:
    """Black pictures, white where told, and a click at each of `clicks_s` after the first picture."""
    pictures = (np.full((64, 64, 3), 255 * is_white, np.uint8) for is_white in white)
    sound = np.zeros(round((LENGTH_S + video_start_s - sound_start_s) * SOURCE_RATE), np.float32)
    for click_s in clicks_s:
        begin = round((click_s + video_start_s - sound_start_s) * SOURCE_RATE)
        sound[begin : begin + 8] = 0.9
    start = Fraction(video_start_s).limit_denominator(1000)
    write_video(
        path, pictures, 30, sound, SOURCE_RATE, times=[start + time for time in times], sound_start_s=sound_start_s, preset="veryfast"
    )
    return str(path)


def click_near(sound: NDArray[np.float32], time_s: float) -> float:
    """Seconds of the loudest sample within a quarter of a second."""
    begin = max(round((time_s - 0.25) * SAMPLE_RATE), 0)
    return float(begin + np.argmax(np.abs(sound[begin : begin + SAMPLE_RATE // 2]))) / SAMPLE_RATE


def is_white(path: str, frames: Sequence[int]) -> NDArray[np.bool_]:
    return np.asarray(read_frames(path, frames, centred(64, 64, 64, 64)).mean(axis=(1, 2, 3)) > 127)


@pytest.mark.parametrize(("video_start_s", "sound_start_s"), OFFSETS)
@pytest.mark.parametrize("clock", ["24", "25", "30000/1001", "variable"])
def test_flash_and_click_meet(tmp_path: Path, clock: str, video_start_s: float, sound_start_s: float) -> None:
    """The picture nearest to frame i is white and clicks at its own time T: frame i is white in every window that holds it,
    and |i - 16 T| <= 16 g / 2, half a source picture."""
    times = picture_times(clock)
    flashes = [min(range(len(times)), key=lambda k: abs(times[k] - Fraction(frame, FRAME_RATE))) for frame in EVENT_FRAMES]
    white = np.isin(np.arange(len(times)), flashes)
    clicks = [float(times[flash]) for flash in flashes]
    path = write_events(tmp_path / "clip.mp4", times, white, clicks, video_start_s, sound_start_s)
    sound = read_audio(path, path)
    for frame, click_s in zip(EVENT_FRAMES, clicks, strict=True):
        heard = click_near(sound, click_s)
        assert heard == pytest.approx(click_s, abs=CLICK_ERROR_S)
        assert abs(frame - FRAME_RATE * heard) <= FRAME_RATE * (half_gap_s(times) + CLICK_ERROR_S)
    for start in STARTS:
        window = range(start, start + 20)
        seen = {frame for frame, flash in zip(window, is_white(path, window), strict=True) if flash}
        assert seen & set(EVENT_FRAMES) == set(EVENT_FRAMES) & set(window)
        # A picture that stays for more than a frame may be the nearest to the next one as well.
        assert all(min(abs(frame - event) for event in EVENT_FRAMES) <= 1 for frame in seen)


@pytest.mark.parametrize(("video_start_s", "sound_start_s"), OFFSETS)
@pytest.mark.parametrize("clock", ["24", "25", "30000/1001", "variable"])
@pytest.mark.parametrize("event_s", [0.517, 1.25, 2.801])
def test_light_and_click_at_any_moment(tmp_path: Path, clock: str, event_s: float, video_start_s: float, sound_start_s: float) -> None:
    """Pictures at T >= e are white, the click is at e. The first white frame i has T >= e and |T - i / 16| <= g / 2, the one before
    has T < e, so 16 e - 8 g <= i < 16 e + 8 g + 1: the middle of the two frames is within half a source picture and half a frame."""
    times = picture_times(clock)
    white = np.array([float(time) >= event_s for time in times])
    path = write_events(tmp_path / "clip.mp4", times, white, [event_s], video_start_s, sound_start_s)
    heard = click_near(read_audio(path, path), event_s)
    assert heard == pytest.approx(event_s, abs=CLICK_ERROR_S)
    first_white = int(np.argmax(is_white(path, range(60))))
    assert abs(first_white - 0.5 - FRAME_RATE * heard) <= FRAME_RATE * (half_gap_s(times) + CLICK_ERROR_S) + 0.5
