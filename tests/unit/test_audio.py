"""The sound read back: its frequency, its level, its channels, and above all when it sounds after the first picture.

A span of it is held against that part of the whole, which is decoded from the start.
"""

import tracemalloc
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.media.audio import SoundFacts, measure_audio, read_audio
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


def own_sound(path: str) -> NDArray[np.float32]:
    """The whole sound of a video."""
    return read_audio(path, path)


def write_track(
    path: Path, codec: str, sound: NDArray[np.float32], sample_rate: int, start_s: float = 0.0, pictures: bool = False, **options: str
) -> str:
    """A file of any kind with one channel, and with a picture every 40 ms from 0.12 s on if it is to be a video."""
    tracks = []
    with av.open(path, "w") as container:
        if pictures:
            video = container.add_stream("libx264", rate=PICTURE_RATE, options={"preset": "ultrafast", "g": "50"})
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream(codec, rate=sample_rate, layout="mono", options=options)
        if pictures:
            for index in range(round(len(sound) / sample_rate * PICTURE_RATE)):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index % 255, np.uint8))
                picture.pts, picture.time_base = index + 3, Fraction(1, PICTURE_RATE)
                tracks += video.encode(picture)
            tracks += video.encode(None)
        resampler = av.AudioResampler(format=audio.format.name, layout="mono", rate=sample_rate)
        for begin in range(0, len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, begin : begin + 1024], format="flt", layout="mono")
            frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
            for converted in resampler.resample(frame):
                converted.pts, converted.time_base = round(start_s * sample_rate) + begin, Fraction(1, sample_rate)
                tracks += audio.encode(converted)
        tracks += audio.encode(None)
        container.mux(sorted(tracks, key=lambda packet: packet.dts * packet.time_base))
    return str(path)


def voice(sample_rate: int, length_s: float) -> NDArray[np.float32]:
    """Two gliding tones that swell."""
    time = np.arange(round(length_s * sample_rate)) / sample_rate
    low = np.sin(2 * np.pi * (150 * time + 20 * np.sin(4 * time)))
    high = np.sin(2 * np.pi * 2500 * time + 3 * np.sin(19 * time))
    return ((0.2 * low + 0.1 * high) * (0.6 + 0.4 * np.sin(8 * time))).astype(np.float32)


def bytes_read() -> int:
    """What this process has read of files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


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
    sound = own_sound(path)
    assert sound.dtype == np.float32
    assert sound.shape[0] == pytest.approx(2 * SAMPLE_RATE, abs=1024)  # AAC ends on a whole packet
    second = sound[4000 : 4000 + SAMPLE_RATE]
    assert np.argmax(np.abs(np.fft.rfft(second * np.hanning(SAMPLE_RATE)))) == 1000
    assert level_of(sound) == pytest.approx(0.5, rel=0.02)


def test_nothing_above_the_new_rate_folds_down(tmp_path: Path) -> None:
    path = write_uncompressed(
        tmp_path / "high.mkv", [(0, (30_000 * tone(11_000, 48_000, 2.0, 1.0))[None].astype(np.int16))], 48_000, "mono"
    )
    assert level_of(own_sound(path)) < 1e-3


def test_stereo_becomes_the_mean_of_its_channels(tmp_path: Path) -> None:
    left = tone(440, 48_000, 2.0, 0.6)
    one_side = own_sound(write_sound(tmp_path / "left.mp4", np.stack([left, 0 * left]), 48_000))
    assert level_of(one_side) == pytest.approx(0.3, rel=0.02)
    both = own_sound(write_sound(tmp_path / "both.mp4", np.stack([left, left]), 48_000))
    assert level_of(both) == pytest.approx(0.6, rel=0.02)


@pytest.mark.parametrize(("layout", "num_channels"), [("5.1", 6), ("7.1", 8)])
def test_surround_becomes_the_mean_of_its_channels(tmp_path: Path, layout: str, num_channels: int) -> None:
    """Eight channels in separate planes make PyAV read past them."""
    samples = np.zeros((num_channels, 96_000), np.int16)
    samples[2] = 30_000 * tone(440, 48_000, 2.0, 1.0)
    sound = own_sound(write_uncompressed(tmp_path / "surround.mkv", [(0, samples)], 48_000, layout))
    assert level_of(sound) == pytest.approx(30_000 / 32_768 / num_channels, rel=0.02)


def test_values_stay_within_one(tmp_path: Path) -> None:
    """A square wave at full level overshoots when it is compressed and resampled."""
    sound = own_sound(write_sound(tmp_path / "square.mp4", np.sign(tone(300, 44_100, 2.0, 1.0)), 44_100))
    assert np.abs(sound).max() == 1


@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize(("video_start_s", "sound_start_s"), [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (0.2, 0.35), (0.5, 0.123), (1.0, 1.0)])
def test_clicks_are_where_they_are_after_the_first_picture(
    tmp_path: Path, sample_rate: int, video_start_s: float, sound_start_s: float
) -> None:
    """Sample = (sound's start + click - first picture's time) * 16000, to within 1 ms, whichever of the two starts first."""
    clicks = [0.75, 1.25, 1.8]
    path = write_sound(tmp_path / "clicks.mp4", with_clicks(clicks, sample_rate, 2.0), sample_rate, 2.0, video_start_s, sound_start_s)
    sound = np.abs(own_sound(path))
    for click in clicks:
        expected = round((sound_start_s + click - video_start_s) * SAMPLE_RATE)
        window = slice(expected - 800, expected + 800)
        assert sound[window].max() > 0.3
        assert np.argmax(sound[window]) - 800 == pytest.approx(0, abs=SAMPLE_RATE / 1000)


def test_sound_that_starts_later_has_zeros_in_front(tmp_path: Path) -> None:
    sound = own_sound(write_sound(tmp_path / "late.mp4", tone(300, 48_000, 1.5, 0.5), 48_000, 2.0, 0.0, 0.5))
    assert not sound[: round(0.45 * SAMPLE_RATE)].any()
    assert len(sound) == pytest.approx(2.0 * SAMPLE_RATE, abs=1024)


def test_a_gap_in_the_sound_is_silent_and_what_follows_keeps_its_time(tmp_path: Path) -> None:
    burst = np.full((1, 4800), 20_000, np.int16)
    path = write_uncompressed(tmp_path / "gap.mkv", [(0.0, burst), (1.0, burst)], 48_000, "mono")
    loud = np.flatnonzero(own_sound(path) > 0.3)
    assert loud[0] == pytest.approx(0, abs=16)
    assert loud[-1] == pytest.approx(1.1 * SAMPLE_RATE, abs=16)
    assert len(loud) == pytest.approx(0.2 * SAMPLE_RATE, abs=32)
    assert loud[len(loud) // 2] == pytest.approx(1.0 * SAMPLE_RATE, abs=32)


def test_reasons(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        own_sound(str(tmp_path / "missing.mp4"))
    write_video(tmp_path / "mute.mp4", [np.zeros((64, 64, 3), np.uint8)] * 20, 16, preset="ultrafast")
    early = write_sound(tmp_path / "early.mp4", tone(300, 48_000, 1.0, 0.5), 48_000, video_start_s=2.0)
    for read in (read_audio, measure_audio):
        with pytest.raises(ClipError, match="no audio stream"):
            read(str(tmp_path / "mute.mp4"), str(tmp_path / "mute.mp4"))
        with pytest.raises(ClipError, match="no sound while there are pictures"):
            read(early, early)


KINDS = {  # what a decoder or a clock could remember
    "pcm.wav": ("pcm_s16le", 44_100, {}),
    "pcm8k.wav": ("pcm_s16le", 8_000, {}),
    "pcm22k.wav": ("pcm_s16le", 22_050, {}),
    "odd.wav": ("pcm_s16le", 44_101, {}),
    "x.flac": ("flac", 44_100, {}),
    "aac.m4a": ("aac", 44_100, {"aac_pns": "0"}),
    "aac.mp4": ("aac", 48_000, {"aac_pns": "0"}),
    "aac.mov": ("aac", 44_100, {"aac_pns": "0"}),
    "aac.ts": ("aac", 44_100, {"aac_pns": "0"}),
    "mp3.avi": ("libmp3lame", 44_100, {}),
    "opus.ogg": ("libopus", 48_000, {}),
    "constant.mp3": ("libmp3lame", 44_100, {"b": "32000"}),
    "average.mp3": ("libmp3lame", 22_050, {"abr": "1"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_span_is_that_part_of_the_whole(tmp_path: Path, name: str) -> None:
    """To the last bit of a float32: the resampler is in the same phase, decoders remember less than what is decoded before."""
    codec, sample_rate, options = KINDS[name]
    is_video = name.split(".")[1] in ("mp4", "mov", "ts", "avi")
    path = write_track(tmp_path / name, codec, voice(sample_rate, 15), sample_rate, pictures=is_video, **options)
    video = path if is_video else "elsewhere.mp4"
    whole = read_audio(path, video)
    assert len(whole) == pytest.approx((15 - 0.12 * is_video) * SAMPLE_RATE, abs=0.14 * SAMPLE_RATE)
    for start, num_frames in ((0, 16), (10, 30), (16, 5), (101, 77), (220, 40)):
        span = read_audio(path, video, start, num_frames)
        np.testing.assert_allclose(span, whole[1000 * start : 1000 * (start + num_frames)], atol=1e-6, err_msg=f"{start}+{num_frames}")
    assert 0 < len(span) < 40_000, "the last span was cut where the sound ends"


def test_span_of_aac_with_noise_of_its_own_is_as_loud(tmp_path: Path) -> None:
    """AAC stores of some noise how loud it is, and its decoder goes on throwing dice from the file's beginning."""
    noise = (0.05 * np.random.default_rng(0).standard_normal(48_000 * 10)).astype(np.float32)
    path = write_track(tmp_path / "noise.m4a", "aac", voice(48_000, 10) + noise, 48_000)
    whole = read_audio(path, "elsewhere.mp4")
    for start in (40, 60, 100):
        difference = read_audio(path, "elsewhere.mp4", start, 40) - whole[1000 * start :][:40_000]
        assert np.sqrt(np.mean(difference**2)) < 0.02


@pytest.mark.parametrize(("name", "codec"), [("x.mkv", "aac"), ("x.webm", "libopus")])
def test_span_of_matroska_is_off_by_a_millisecond_at_most(tmp_path: Path, name: str, codec: str) -> None:
    """Its times are whole milliseconds: read from the start samples are counted, from elsewhere the nearest time tells."""
    clicks = [3.0, 9.0, 17.5]
    path = write_track(tmp_path / name, codec, with_clicks(clicks, 48_000, 20), 48_000)
    whole = np.abs(read_audio(path, "elsewhere.mp4"))
    for click in clicks:
        start = int(click * 16) - 4
        span = np.abs(read_audio(path, "elsewhere.mp4", start, 8))
        assert span.max() > 0.2
        assert np.argmax(span) == pytest.approx(np.argmax(whole[1000 * start :][:8000]), abs=SAMPLE_RATE / 1000)


def test_span_reaches_over_silence_and_gaps(tmp_path: Path) -> None:
    burst = np.full((1, 4800), 20_000, np.int16)
    path = write_uncompressed(tmp_path / "gap.mkv", [(0.5, burst), (4.0, burst), (12.0, burst)], 48_000, "mono")
    whole = own_sound(path)
    assert len(whole) == pytest.approx(12.1 * SAMPLE_RATE, abs=2)
    for start, num_frames in ((0, 4), (0, 16), (30, 20), (66, 100), (100, 40), (150, 80), (192, 1)):
        span = read_audio(path, path, start, num_frames)
        np.testing.assert_allclose(span, whole[1000 * start : 1000 * (start + num_frames)], atol=1e-6)
    assert len(read_audio(path, path, 100, 40)) == 40_000
    assert not read_audio(path, path, 100, 40).any()


@pytest.mark.parametrize("name", ["pcm.wav", "aac.m4a", "aac.mp4", "x.flac", "opus.ogg", "constant.mp3"])
def test_span_behind_the_end(tmp_path: Path, name: str) -> None:
    codec, sample_rate, options = KINDS[name]
    path = write_track(tmp_path / name, codec, voice(sample_rate, 4), sample_rate, **options)
    assert 15_000 < len(read_audio(path, "elsewhere.mp4", 48, 80)) < 18_000
    for start in (80, 800):
        with pytest.raises(ClipError, match=f"the sound ends before {start / 16:g} s"):
            read_audio(path, "elsewhere.mp4", start, 16)


@pytest.mark.parametrize("name", ["pcm.wav", "x.flac", "aac.m4a", "opus.ogg", "constant.mp3", "average.mp3"])
def test_sound_file_of_its_own_begins_with_its_first_sample(tmp_path: Path, name: str) -> None:
    """Whatever its encoder put in front; MP3 counts that in its times."""
    codec, sample_rate, options = KINDS[name]
    clicks = [0.25, 0.75, 1.25]
    path = write_track(tmp_path / name, codec, with_clicks(clicks, sample_rate, 2.0), sample_rate, **options)
    sound = np.abs(read_audio(path, "elsewhere.mp4"))
    for click in clicks:
        window = sound[round(click * SAMPLE_RATE) - 800 :][:1600]
        assert window.max() > 0.15
        assert np.argmax(window) - 800 == pytest.approx(0, abs=SAMPLE_RATE / 1000)
    assert measure_audio(path, "elsewhere.mp4").start_s == 0


def test_sound_file_of_its_own_that_begins_later_has_zeros_in_front(tmp_path: Path) -> None:
    path = write_track(tmp_path / "late.m4a", "aac", tone(300, 48_000, 1.5, 0.5), 48_000, start_s=0.5)
    sound = read_audio(path, "elsewhere.mp4")
    assert not sound[: round(0.47 * SAMPLE_RATE)].any()
    assert np.abs(sound[round(0.5 * SAMPLE_RATE) :][:800]).max() > 0.4
    assert len(sound) == pytest.approx(2.0 * SAMPLE_RATE, abs=1024)


def test_measures(tmp_path: Path) -> None:
    sound = tone(300, 48_000, 2.0, 0.5)
    sound[12_345:12_353] = 0.9
    late = write_uncompressed(tmp_path / "late.mkv", [(0.3, (32_000 * sound).astype(np.int16)[None])], 48_000, "mono")
    start_s, end_s, peak = measure_audio(late, late)
    assert (start_s, end_s) == pytest.approx((0.3, 2.3), abs=1e-3)
    assert peak == np.abs(own_sound(late)).max() > 0.6
    early = write_sound(tmp_path / "early.mp4", sound, 48_000, video_start_s=0.4)
    found = measure_audio(early, early)
    assert (found.start_s, found.end_s) == pytest.approx((-0.4, 1.6), abs=0.03)
    assert found.end_s == len(own_sound(early)) / SAMPLE_RATE
    assert found.peak == np.abs(own_sound(early)).max() < 0.6, "what is heard before the picture does not count"


def test_broken_clock(tmp_path: Path) -> None:
    burst = np.full((1, 4800), 20_000, np.int16)
    path = write_uncompressed(tmp_path / "clock.mkv", [(0.0, burst), (5 * 3600.0, burst)], 48_000, "mono")
    for read in (read_audio, measure_audio):
        with pytest.raises(ClipError, match="clock runs to 18000"):
            read(path, path)


@pytest.fixture(scope="module")
def long_wav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Six minutes: 16 MB in the file, 23 MB as they are read."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    minute = (32_768 * tone(441, 22_050, 60, 0.25)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 22_050, 0, "NONE", ""))
        for _ in range(6):
            file.writeframes(minute.tobytes())
    yield str(path)
    path.unlink()


def test_span_of_a_long_sound_costs_what_the_span_is(long_wav: str) -> None:
    before = bytes_read()
    tracemalloc.start()
    sound = read_audio(long_wav, "elsewhere.mp4", 5000, 80)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sound) == 80_000
    assert peak < 3 * sound.nbytes
    assert bytes_read() - before < 2_000_000


def test_a_long_sound_is_measured_without_holding_it(long_wav: str) -> None:
    tracemalloc.start()
    found = measure_audio(long_wav, "elsewhere.mp4")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == SoundFacts(0, 360, pytest.approx(0.25, abs=1e-3))
    assert peak < 2_000_000
