"""What a probe says of good files, and how sound and pictures are held against each other. Bad files are in test_wrong_files."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.media.audio import SoundFacts, measure_audio
from ray_s2v.media.picture import centred
from ray_s2v.media.probe import VideoFacts, check_sound, mismatch_s, probe_video
from ray_s2v.media.video import read_frames
from ray_s2v.media.write import write_video
from ray_s2v.schema import ClipError

SAMPLE_RATE = 48_000


def noise_pictures(num_pictures: int, width: int = 64, height: int = 64) -> list[NDArray[np.uint8]]:
    """Pictures that take some room in the file."""
    return list(np.random.default_rng(0).integers(0, 255, (num_pictures, height, width, 3), np.uint8))


def hum(length_s: float, level: float = 0.3) -> NDArray[np.float32]:
    return (level * np.sin(0.1 * np.arange(round(length_s * SAMPLE_RATE)))).astype(np.float32)


def write_clip(path: Path, length_s: float = 2.0, fps: Fraction | int = 25, sound_s: float | None = None) -> str:
    pictures = noise_pictures(round(length_s * fps))
    write_video(path, pictures, fps, hum(sound_s or length_s), SAMPLE_RATE, preset="ultrafast")
    return str(path)


def copy_packets(source: str, target: Path, degrees: int = 0, clock_factor: int = 1) -> str:
    """The same packets in the container that the target's name says, turned or slowed down."""
    with av.open(source) as reader, av.open(target, "w") as writer:
        streams = {}
        for stream in (reader.streams.video[0], reader.streams.audio[0]):
            streams[stream.index] = writer.add_stream_from_template(stream)
        if degrees:
            streams[0].set_display_rotation(degrees)
        for packet in reader.demux():
            if packet.size:
                index = packet.stream_index
                if index == 0:
                    packet.pts, packet.dts = packet.pts * clock_factor, packet.dts * clock_factor
                    packet.duration *= clock_factor
                packet.stream = streams[index]
                writer.mux(packet)
    return str(target)


def facts(path: str) -> tuple[VideoFacts, SoundFacts]:
    """Of a clip whose sound and pictures fit together."""
    video, sound = probe_video(path), measure_audio(path, path)
    check_sound(video, sound)
    return video, sound


@pytest.mark.parametrize("fps", [24, 25, 30, 60, Fraction(30_000, 1001), Fraction(24_000, 1001)])
@pytest.mark.parametrize("num_pictures", [48, 77])
def test_frames_are_counted_by_time(tmp_path: Path, fps: Fraction | int, num_pictures: int) -> None:
    """num_frames = 16 * pictures / fps, to the nearest; the last of them can be read and is the last one or nearly so."""
    path = tmp_path / "clip.mp4"
    write_video(path, noise_pictures(num_pictures), fps, hum(num_pictures / fps), SAMPLE_RATE, preset="ultrafast")
    video, sound = facts(str(path))
    assert video.video_s == pytest.approx(num_pictures / fps, abs=1e-3)
    assert sound.end_s == pytest.approx(num_pictures / fps, abs=0.03)
    assert mismatch_s(video, sound) < 0.03
    assert video.num_frames == round(16 * num_pictures / fps)
    read_frames(str(path), [video.num_frames - 1], centred(64, 64, 64, 64))


@pytest.mark.parametrize("extension", ["mkv", "mov", "ts"])
def test_five_seconds_are_eighty_frames_in_every_container(tmp_path: Path, extension: str) -> None:
    """Matroska rounds times to milliseconds."""
    path = copy_packets(write_clip(tmp_path / "clip.mp4", 5.0, 24), tmp_path / f"clip.{extension}")
    assert facts(path)[0].num_frames == 80


def test_size_is_as_shown(tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    write_video(source, noise_pictures(20, 96, 64), 16, hum(20 / 16), SAMPLE_RATE, preset="ultrafast")
    for degrees, size in ((0, (96, 64)), (90, (64, 96)), (180, (96, 64)), (270, (64, 96))):
        found = probe_video(copy_packets(str(source), tmp_path / f"turned_{degrees}.mp4", degrees))
        assert (found.width, found.height) == size


def test_titles_in_an_old_encoding_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "title.mp4"
    with av.open(write_clip(tmp_path / "clip.mp4")) as reader, av.open(path, "w") as writer:
        writer.metadata["title"] = "a title XX"
        streams = [writer.add_stream_from_template(stream) for stream in reader.streams]
        for packet in reader.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                writer.mux(packet)
    content = path.read_bytes()
    assert b"title XX" in content
    path.write_bytes(content.replace(b"title XX", b"title \xe9\xff"))
    assert facts(str(path))[0].num_frames == 32


def test_silent_sound(tmp_path: Path) -> None:
    for level in (0.0, 3e-5):
        write_video(tmp_path / "silent.mp4", noise_pictures(50), 25, hum(2.0, level), SAMPLE_RATE, preset="ultrafast")
        with pytest.raises(ClipError, match="the sound is silent"):
            facts(str(tmp_path / "silent.mp4"))


@pytest.mark.parametrize("sound_s", [0.8, 3.2])
def test_sound_of_another_length(tmp_path: Path, sound_s: float) -> None:
    with pytest.raises(ClipError, match=rf"{sound_s} s of sound for 2.0 s of pictures"):
        facts(write_clip(tmp_path / "clip.mp4", sound_s=sound_s))


@pytest.mark.parametrize("sound_s", [1.2, 2.8])
def test_sound_of_nearly_the_same_length_is_told(tmp_path: Path, sound_s: float) -> None:
    video, sound = facts(write_clip(tmp_path / "clip.mp4", sound_s=sound_s))
    assert sound.end_s == pytest.approx(sound_s, abs=0.03)
    assert mismatch_s(video, sound) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("start_s", [0.3, 0.9])
def test_sound_that_begins_a_little_later_is_told(tmp_path: Path, start_s: float) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise_pictures(50), 25, hum(2.0 - start_s), SAMPLE_RATE, sound_start_s=start_s, preset="ultrafast")
    assert mismatch_s(*facts(str(path))) == pytest.approx(start_s, abs=0.03)


def test_sound_that_begins_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise_pictures(100), 25, hum(2.5), SAMPLE_RATE, sound_start_s=1.5, preset="ultrafast")
    with pytest.raises(ClipError, match=r"the sound begins \+1.5 s from the pictures"):
        facts(str(path))


def test_sound_of_its_own_file_is_held_against_the_pictures_as_well(tmp_path: Path) -> None:
    write_video(tmp_path / "mute.mp4", noise_pictures(50), 25, preset="ultrafast")
    video = probe_video(str(tmp_path / "mute.mp4"))
    assert not video.has_audio
    for length_s in (2.0, 2.6, 3.5):
        with wave.open(str(tmp_path / "voice.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes((32_767 * hum(length_s)).astype(np.int16).tobytes())
        sound = measure_audio(str(tmp_path / "voice.wav"), str(tmp_path / "mute.mp4"))
        assert mismatch_s(video, sound) == pytest.approx(length_s - 2, abs=1e-3)
        if length_s < 3:
            check_sound(video, sound)
    with pytest.raises(ClipError, match=r"3\.5 s of sound for 2\.0 s of pictures"):
        check_sound(video, sound)


def test_absurd_clock(tmp_path: Path) -> None:
    """A picture every 40 s, and one every 40 hours."""
    source = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(ClipError, match="pictures a second"):
        probe_video(copy_packets(source, tmp_path / "slow.mp4", clock_factor=1000))
    with pytest.raises(ClipError, match="clock runs to"):
        probe_video(copy_packets(source, tmp_path / "slower.mkv", clock_factor=3_600_000))
