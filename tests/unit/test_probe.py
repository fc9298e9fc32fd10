"""What a probe says of good files, and its reason for each bad kind."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.media.probe import probe
from ray_s2v.media.video import read_frames
from ray_s2v.media.write import write_video
from ray_s2v.schema import ClipError

SAMPLE_RATE = 48_000


def noise_pictures(num_pictures: int, width: int = 64, height: int = 64) -> list[NDArray[np.uint8]]:
    """Pictures that take some room in the file."""
    return list(np.random.default_rng(0).integers(0, 255, (num_pictures, height, width, 3), np.uint8))


def hum(length_s: float, level: float = 0.3) -> NDArray[np.float32]:
    return (level * np.sin(0.1 * np.arange(round(length_s * SAMPLE_RATE)))).astype(np.float32)


def write_clip(path: Path, length_s: float = 2.0, fps: Fraction | int = 25, sound_s: float | None = None, faststart: bool = True) -> str:
    pictures = noise_pictures(round(length_s * fps))
    write_video(path, pictures, fps, hum(sound_s or length_s), SAMPLE_RATE, preset="ultrafast", faststart=faststart)
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


def cut(path: str, share: float) -> str:
    """Less of the file: the header is whole, and this share of what follows."""
    content = Path(path).read_bytes()
    header = max(content.find(b"mdat"), 1000)
    Path(path).write_bytes(content[: header + int((len(content) - header) * share)])
    return path


@pytest.mark.parametrize("fps", [24, 25, 30, 60, Fraction(30_000, 1001), Fraction(24_000, 1001)])
@pytest.mark.parametrize("num_pictures", [48, 77])
def test_frames_are_counted_by_time(tmp_path: Path, fps: Fraction | int, num_pictures: int) -> None:
    """num_frames = 16 * pictures / fps, to the nearest; the last of them can be read and is the last one or nearly so."""
    path = tmp_path / "clip.mp4"
    write_video(path, noise_pictures(num_pictures), fps, hum(num_pictures / fps), SAMPLE_RATE, preset="ultrafast")
    found = probe(str(path))
    assert found.video_s == pytest.approx(num_pictures / fps, abs=1e-3)
    assert found.audio_s == pytest.approx(num_pictures / fps, abs=0.03)
    assert found.num_frames == round(16 * num_pictures / fps)
    read_frames(str(path), [found.num_frames - 1], 64, 64)


@pytest.mark.parametrize("extension", ["mkv", "mov", "ts"])
def test_five_seconds_are_eighty_frames_in_every_container(tmp_path: Path, extension: str) -> None:
    """Matroska rounds times to milliseconds."""
    path = copy_packets(write_clip(tmp_path / "clip.mp4", 5.0, 24), tmp_path / f"clip.{extension}")
    assert probe(path).num_frames == 80


def test_size_is_as_shown(tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    write_video(source, noise_pictures(20, 96, 64), 16, hum(20 / 16), SAMPLE_RATE, preset="ultrafast")
    for degrees, size in ((0, (96, 64)), (90, (64, 96)), (180, (96, 64)), (270, (64, 96))):
        found = probe(copy_packets(str(source), tmp_path / f"turned_{degrees}.mp4", degrees))
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
    assert probe(str(path)).num_frames == 32


def test_no_readable_file(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("a caption that someone named .mp4\n" * 100)
    for path, reason in (
        (empty, "the file is empty"),
        (text, "not a media file"),
        (tmp_path / "missing.mp4", "cannot be opened: No such file or directory"),
        (tmp_path, "cannot be opened: Is a directory"),
    ):
        with pytest.raises(ClipError, match=reason):
            probe(str(path))


def test_missing_tracks(tmp_path: Path) -> None:
    mute, blind = tmp_path / "mute.mp4", tmp_path / "blind.wav"
    write_video(mute, noise_pictures(20), 16, preset="ultrafast")
    with av.open(blind, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), 1000, np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ClipError, match="no audio stream"):
        probe(str(mute))
    with pytest.raises(ClipError, match="no video stream"):
        probe(str(blind))


def test_silent_sound(tmp_path: Path) -> None:
    for level in (0.0, 3e-5):
        write_video(tmp_path / "silent.mp4", noise_pictures(50), 25, hum(2.0, level), SAMPLE_RATE, preset="ultrafast")
        with pytest.raises(ClipError, match="silent"):
            probe(str(tmp_path / "silent.mp4"))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.97])
def test_file_cut_off_behind_its_header(tmp_path: Path, share: float) -> None:
    with pytest.raises(ClipError, match="truncated"):
        probe(cut(write_clip(tmp_path / "clip.mp4"), share))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_matroska_cut_off(tmp_path: Path, share: float) -> None:
    with pytest.raises(ClipError, match="truncated"):
        probe(cut(copy_packets(write_clip(tmp_path / "clip.mp4"), tmp_path / "clip.mkv"), share))


def test_header_at_the_end_cut_off(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="header is cut off"):
        probe(cut(write_clip(tmp_path / "clip.mp4", faststart=False), 0.5))


def test_too_few_pictures(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="no more than one picture"):
        probe(write_clip(tmp_path / "clip.mp4", 0.04, sound_s=0.5))


@pytest.mark.parametrize("sound_s", [0.8, 3.2])
def test_sound_of_another_length(tmp_path: Path, sound_s: float) -> None:
    with pytest.raises(ClipError, match=rf"{sound_s} s of sound for 2.0 s of pictures"):
        probe(write_clip(tmp_path / "clip.mp4", sound_s=sound_s))


@pytest.mark.parametrize("sound_s", [1.2, 2.8])
def test_sound_of_nearly_the_same_length_is_told(tmp_path: Path, sound_s: float) -> None:
    found = probe(write_clip(tmp_path / "clip.mp4", sound_s=sound_s))
    assert found.audio_s == pytest.approx(sound_s, abs=0.03)


def test_sound_that_begins_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise_pictures(100), 25, hum(2.5), SAMPLE_RATE, sound_start_s=1.5, preset="ultrafast")
    with pytest.raises(ClipError, match=r"the sound begins \+1.5 s from the pictures"):
        probe(str(path))


def test_absurd_clock(tmp_path: Path) -> None:
    """A picture every 40 s, and one every 40 hours."""
    source = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(ClipError, match="pictures a second"):
        probe(copy_packets(source, tmp_path / "slow.mp4", clock_factor=1000))
    with pytest.raises(ClipError, match="clock runs to"):
        probe(copy_packets(source, tmp_path / "slower.mkv", clock_factor=3_600_000))
