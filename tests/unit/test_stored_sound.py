"""Sound as a file holds it: its channels, its rate, and its place on the clock."""

from pathlib import Path

import numpy as np
import pytest

from ray_s2v.media.audio import read_audio
from ray_s2v.media.stored_sound import stored_sound
from ray_s2v.media.write import write_video
from ray_s2v.schema import ClipError

RATE = 44_100


def tones() -> np.ndarray:
    time = np.arange(2 * RATE) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0.25 * np.sin(2 * np.pi * 660 * time)]).astype(np.float32)


def video(path: Path, sound: np.ndarray, start_s: float = 0.0) -> str:
    write_video(path, [np.zeros((64, 64, 3), np.uint8)] * 32, 16, sound, RATE, sound_start_s=start_s)
    return str(path)


def loudest(channel: np.ndarray, rate: int) -> float:
    """The frequency that is strongest, in Hz."""
    return float(np.abs(np.fft.rfft(channel)).argmax() * rate / len(channel))


def test_channels_and_rate_are_the_files_own(tmp_path: Path) -> None:
    path = video(tmp_path / "stereo.mp4", tones())
    sound, rate = stored_sound(path, path)
    assert rate == RATE
    assert sound.shape[0] == 2
    assert sound.shape[1] == pytest.approx(2 * RATE, abs=2048)
    assert loudest(sound[0], rate) == pytest.approx(440, abs=1)
    assert loudest(sound[1], rate) == pytest.approx(660, abs=1)
    mono = video(tmp_path / "mono.mp4", tones()[:1])
    assert stored_sound(mono, mono)[0].shape[0] == 1


def test_its_clock_is_that_of_what_the_network_hears(tmp_path: Path) -> None:
    """A click, in a sound that begins a quarter of a second late: at the same moment both ways."""
    clicks = np.zeros((1, RATE), np.float32)
    clicks[:, RATE // 2 : RATE // 2 + 40] = 0.9
    path = video(tmp_path / "late.mp4", clicks, start_s=0.25)
    stored, rate = stored_sound(path, path)
    heard = read_audio(path, path)
    assert np.abs(stored[0]).argmax() / rate == pytest.approx(0.75, abs=0.002)
    assert np.abs(heard).argmax() / 16_000 == pytest.approx(0.75, abs=0.002)
    assert not stored[0, : round(0.2 * rate)].any()


def test_a_file_of_sound_alone(tmp_path: Path) -> None:
    import wave

    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((tones()[0, ::4] * 32767).astype("<i2").tobytes())
    sound, rate = stored_sound(str(path), "")
    assert (rate, sound.shape[0]) == (8000, 1)
    np.testing.assert_allclose(sound[0], tones()[0, ::4], atol=1e-4)
    with pytest.raises(ClipError, match="no video stream"):
        stored_sound(str(path), str(path))
