"""The sound read back: its frequency, its level, its channels, and above all when it sounds after the first picture."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.media.audio import read_audio
from ray_s2v.media.write import write_video
from ray_s2v.schema import SAMPLE_RATE, ClipError

PICTURE_RATE = 25


def write_sound(
    path: Path, sound: NDArray[np.float32], sample_rate: int, length_s: float = 2.0, video_start_s: float = 0.0, sound_start_s: float = 0.0
) -> str:
    """A clip of black pictures with the sound."""
    num_pictures = round(length_s * PICTURE_RATE)
    times = [Fraction(video_start_s).limit_denominator(1000) + Fraction(index, PICTURE_RATE) for index in range(num_pictures)]
    pictures = [np.zeros((64, 64, 3), np.uint8)] * num_pictures
    write_video(path, pictures, PICTURE_RATE, sound, sample_rate, times=times, sound_start_s=sound_start_s, preset="ultrafast")
    return str(path)


def write_uncompressed(path: Path, pieces: list[tuple[float, NDArray[np.int16]]], sample_rate: int, layout: str) -> str:
    """A clip of 2 s whose sound is 16-bit samples [channels, samples], in pieces that begin at given seconds."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=PICTURE_RATE, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=sample_rate, layout=layout)
        for _ in range(2 * PICTURE_RATE):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(video.encode(None))
        for start_s, samples in pieces:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, round(start_s * sample_rate), Fraction(1, sample_rate)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return str(path)


def tone(frequency: float, sample_rate: int, length_s: float, level: float) -> NDArray[np.float32]:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(length_s * sample_rate)) / sample_rate)).astype(np.float32)


def with_clicks(times_s: list[float], sample_rate: int, length_s: float) -> NDArray[np.float32]:
    """Silence with clicks of a sixth of a millisecond."""
    sound = np.zeros(round(length_s * sample_rate), np.float32)
    for time_s in times_s:
        start = round(time_s * sample_rate)
        sound[start : start + sample_rate // 6000] = 0.9
    return sound


def level_of(sound: NDArray[np.float32]) -> float:
    """Amplitude of a sine with this mean square, edges left out."""
    return float(np.sqrt(2 * np.mean(np.square(sound[800:-2400]))))


@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 48_000])
def test_tone_keeps_its_frequency_and_level(tmp_path: Path, sample_rate: int) -> None:
    path = write_sound(tmp_path / "tone.mp4", tone(1000, sample_rate, 2.0, 0.5), sample_rate)
    sound = read_audio(path)
    assert sound.dtype == np.float32
    assert sound.shape[0] == pytest.approx(2 * SAMPLE_RATE, abs=1024)  # AAC ends on a whole packet
    second = sound[4000 : 4000 + SAMPLE_RATE]
    assert np.argmax(np.abs(np.fft.rfft(second * np.hanning(SAMPLE_RATE)))) == 1000
    assert level_of(sound) == pytest.approx(0.5, rel=0.02)


def test_nothing_above_the_new_rate_folds_down(tmp_path: Path) -> None:
    path = write_uncompressed(
        tmp_path / "high.mkv", [(0, (30_000 * tone(11_000, 48_000, 2.0, 1.0))[None].astype(np.int16))], 48_000, "mono"
    )
    assert level_of(read_audio(path)) < 1e-3


def test_stereo_becomes_the_mean_of_its_channels(tmp_path: Path) -> None:
    left = tone(440, 48_000, 2.0, 0.6)
    one_side = read_audio(write_sound(tmp_path / "left.mp4", np.stack([left, 0 * left]), 48_000))
    assert level_of(one_side) == pytest.approx(0.3, rel=0.02)
    both = read_audio(write_sound(tmp_path / "both.mp4", np.stack([left, left]), 48_000))
    assert level_of(both) == pytest.approx(0.6, rel=0.02)


@pytest.mark.parametrize(("layout", "num_channels"), [("5.1", 6), ("7.1", 8)])
def test_surround_becomes_the_mean_of_its_channels(tmp_path: Path, layout: str, num_channels: int) -> None:
    """Eight channels in separate planes make PyAV read past them."""
    samples = np.zeros((num_channels, 96_000), np.int16)
    samples[2] = 30_000 * tone(440, 48_000, 2.0, 1.0)
    sound = read_audio(write_uncompressed(tmp_path / "surround.mkv", [(0, samples)], 48_000, layout))
    assert level_of(sound) == pytest.approx(30_000 / 32_768 / num_channels, rel=0.02)


def test_values_stay_within_one(tmp_path: Path) -> None:
    """A square wave at full level overshoots when it is compressed and resampled."""
    sound = read_audio(write_sound(tmp_path / "square.mp4", np.sign(tone(300, 44_100, 2.0, 1.0)), 44_100))
    assert np.abs(sound).max() == 1


@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize(("video_start_s", "sound_start_s"), [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (0.2, 0.35), (0.5, 0.123), (1.0, 1.0)])
def test_clicks_are_where_they_are_after_the_first_picture(
    tmp_path: Path, sample_rate: int, video_start_s: float, sound_start_s: float
) -> None:
    """Sample = (sound's start + click - first picture's time) * 16000, to within 1 ms, whichever of the two starts first."""
    clicks = [0.75, 1.25, 1.8]
    path = write_sound(tmp_path / "clicks.mp4", with_clicks(clicks, sample_rate, 2.0), sample_rate, 2.0, video_start_s, sound_start_s)
    sound = np.abs(read_audio(path))
    for click in clicks:
        expected = round((sound_start_s + click - video_start_s) * SAMPLE_RATE)
        window = slice(expected - 800, expected + 800)
        assert sound[window].max() > 0.3
        assert np.argmax(sound[window]) - 800 == pytest.approx(0, abs=SAMPLE_RATE / 1000)


def test_sound_that_starts_later_has_zeros_in_front(tmp_path: Path) -> None:
    sound = read_audio(write_sound(tmp_path / "late.mp4", tone(300, 48_000, 1.5, 0.5), 48_000, 2.0, 0.0, 0.5))
    assert not sound[: round(0.45 * SAMPLE_RATE)].any()
    assert len(sound) == pytest.approx(2.0 * SAMPLE_RATE, abs=1024)


def test_a_gap_in_the_sound_is_silent_and_what_follows_keeps_its_time(tmp_path: Path) -> None:
    burst = np.full((1, 4800), 20_000, np.int16)
    path = write_uncompressed(tmp_path / "gap.mkv", [(0.0, burst), (1.0, burst)], 48_000, "mono")
    loud = np.flatnonzero(read_audio(path) > 0.3)
    assert loud[0] == pytest.approx(0, abs=16)
    assert loud[-1] == pytest.approx(1.1 * SAMPLE_RATE, abs=16)
    assert len(loud) == pytest.approx(0.2 * SAMPLE_RATE, abs=32)
    assert loud[len(loud) // 2] == pytest.approx(1.0 * SAMPLE_RATE, abs=32)


def test_reasons(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="cannot be opened: No such file"):
        read_audio(str(tmp_path / "missing.mp4"))
    write_video(tmp_path / "mute.mp4", [np.zeros((64, 64, 3), np.uint8)] * 20, 16, preset="ultrafast")
    with pytest.raises(ClipError, match="no audio stream"):
        read_audio(str(tmp_path / "mute.mp4"))
    early = write_sound(tmp_path / "early.mp4", tone(300, 48_000, 1.0, 0.5), 48_000, video_start_s=2.0)
    with pytest.raises(ClipError, match="no sound while there are pictures"):
        read_audio(early)
