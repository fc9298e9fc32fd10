"""Each kind of file that people have lying about: what cannot be used has a reason, what can is read. Nothing crashes.

A kind is tried as a file and as a member of a tar.
"""

import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from ray_s2v.media.audio import measure_audio, read_audio
from ray_s2v.media.picture import centred
from ray_s2v.media.probe import VideoFacts, check_sound, probe_video
from ray_s2v.media.video import read_frames
from ray_s2v.media.write import write_video
from ray_s2v.schema import ClipError
from ray_s2v.storage import Member

SOUND_RATE = 48_000
WHOLE = centred(64, 64, 64, 64)


def hum(length_s: float) -> NDArray[np.float32]:
    return (0.3 * np.sin(0.1 * np.arange(round(length_s * SOUND_RATE)))).astype(np.float32)


def write_clip(path: Path, num_pictures: int = 50, sound_s: float = 2.0, faststart: bool = True) -> Path:
    """25 pictures a second that take some room in the file."""
    pictures = np.random.default_rng(0).integers(0, 255, (num_pictures, 64, 64, 3), np.uint8)
    write_video(path, pictures, 25, hum(sound_s), SOUND_RATE, preset="ultrafast", faststart=faststart)
    return path


def copied(source: Path, target: Path, tracks: str = "va") -> Path:
    """The same packets in the container that the target's name says, of the pictures (v), the sound (a) or both."""
    with av.open(source) as reader, av.open(target, "w") as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams if stream.type[0] in tracks}
        for packet in reader.demux(*(reader.streams[index] for index in streams)):
            if packet.size:
                packet.stream = streams[packet.stream_index]
                writer.mux(packet)
    return target


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def cut(path: Path, share: float) -> Path:
    """Less of the file: the header is whole, and this share of what follows."""
    content = path.read_bytes()
    header = max(content.find(b"mdat"), 1000)
    path.write_bytes(content[: header + int((len(content) - header) * share)])
    return path


def png(path: Path) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64 * 193))) + chunk(b"IEND", b""))
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def in_tar(path: Path) -> str:
    """The place of the file in a tar where it is not the first."""
    shard = path.with_suffix(".tar")
    with tarfile.open(shard, "w") as tar:
        for name in ("first", "x"):
            tar.add(path, name + path.suffix)
        tar.add(path, "last" + path.suffix)
    with tarfile.open(shard) as tar:
        found = tar.getmember("x" + path.suffix)
    return str(Member(str(shard), found.offset_data, found.size, found.name))


def as_it_is(path: Path) -> str:
    return str(path)


def examine(place: str) -> VideoFacts:
    """What a clip with its own sound has to pass."""
    video = probe_video(place)
    if not video.has_audio:
        raise ClipError("no sound")
    check_sound(video, measure_audio(place, place))
    return video


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zero bytes": (lambda f: written(f / "x.mp4", b""), "the file is empty"),
    "one byte": (lambda f: written(f / "x.mp4", b"\0"), "not a media file"),
    "nothing but zeros": (lambda f: written(f / "x.mp4", bytes(100_000)), "not a media file"),
    "text": (lambda f: written(f / "x.mp4", b"a caption that someone named .mp4\n" * 100), "not a media file"),
    "a page of errors": (lambda f: written(f / "x.mp4", b"<html><body>404 Not Found</body></html>"), "not a media file"),
    "a picture": (lambda f: png(f / "x.mp4"), "not a media file of a kind"),
    "subtitles": (lambda f: written(f / "x.mp4", b"1\n00:00:01,000 --> 00:00:04,000\nHello\n"), "not a media file of a kind"),
    "header behind the cut": (lambda f: cut(write_clip(f / "x.mp4", faststart=False), 0.5), "its header is cut off"),
    "mp4, little is left": (lambda f: cut(write_clip(f / "x.mp4"), 0.02), "truncated"),
    "mp4, half is left": (lambda f: cut(write_clip(f / "x.mp4"), 0.5), "truncated"),
    "mp4, the end is gone": (lambda f: cut(write_clip(f / "x.mp4"), 0.97), "truncated"),
    "mkv, little is left": (lambda f: cut(copied(write_clip(f / "a.mp4"), f / "x.mkv"), 0.2), "truncated"),
    "mkv, half is left": (lambda f: cut(copied(write_clip(f / "a.mp4"), f / "x.mkv"), 0.5), "truncated"),
    "mkv, most is left": (lambda f: cut(copied(write_clip(f / "a.mp4"), f / "x.mkv"), 0.7), "truncated"),
    "no pictures": (lambda f: copied(write_clip(f / "a.mp4"), f / "x.m4a", "a"), "no video stream"),
    "no sound": (lambda f: copied(write_clip(f / "a.mp4"), f / "x.mp4", "v"), "no sound"),
    "sound shorter than the pictures": (lambda f: write_clip(f / "x.mp4", sound_s=0.7), "0.7 s of sound for 2.0 s of pictures"),
    "sound longer than the pictures": (lambda f: write_clip(f / "x.mp4", sound_s=3.3), "3.3 s of sound for 2.0 s of pictures"),
    "one picture": (lambda f: write_clip(f / "x.mp4", num_pictures=1, sound_s=0.5), "no more than one picture"),
    "unknown pictures, mp4": (lambda f: patched(write_clip(f / "x.mp4"), b"avc1", b"zzz1"), "a codec that is not known"),
    "unknown pictures, mkv": (
        lambda f: patched(copied(write_clip(f / "a.mp4"), f / "x.mkv"), b"/AVC", b"/XYZ"),
        "a codec that is not known",
    ),
    "unknown sound": (lambda f: patched(copied(write_clip(f / "a.mp4"), f / "x.mkv"), b"A_AAC", b"A_XYZ"), "a codec that is not known"),
}


@pytest.mark.parametrize("put", [as_it_is, in_tar])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_has_a_reason(tmp_path: Path, kind: str, put: Callable[[Path], str]) -> None:
    make, reason = BROKEN[kind]
    place = put(make(tmp_path))
    with pytest.raises(ClipError, match=reason):
        examine(place)
    for read in (lambda: read_frames(place, [0, 20], WHOLE), lambda: read_audio(place, place), lambda: read_audio(place, place, 4, 8)):
        with suppress(ClipError):  # whoever reads it nevertheless gets pictures and sound, or a reason
            assert len(read())


def test_place_without_a_file_is_told_as_such(tmp_path: Path) -> None:
    for place in (str(tmp_path / "gone.mp4"), str(tmp_path), str(Member(str(tmp_path / "gone.tar"), 512, 1000, "x.mp4"))):
        for read in (probe_video, lambda place: measure_audio(place, place), lambda place: read_frames(place, [0], WHOLE)):
            with pytest.raises(OSError, match=r"No such file|Is a directory"):
                read(place)


@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv", "ts"])
def test_good_file_is_the_same_in_a_tar(tmp_path: Path, extension: str) -> None:
    plain = str(copied(write_clip(tmp_path / "a.mp4"), tmp_path / f"x.{extension}"))
    member = in_tar(Path(plain))
    assert examine(member) == examine(plain)
    np.testing.assert_array_equal(read_frames(member, range(32), WHOLE), read_frames(plain, range(32), WHOLE))
    np.testing.assert_array_equal(read_frames(member, [25, 30], WHOLE), read_frames(plain, [25, 30], WHOLE))
    np.testing.assert_array_equal(read_audio(member, member), read_audio(plain, plain))
    np.testing.assert_array_equal(read_audio(member, member, 20, 8), read_audio(plain, plain, 20, 8))
    assert measure_audio(member, member) == measure_audio(plain, plain)


def test_extension_does_not_matter(tmp_path: Path) -> None:
    mkv = copied(write_clip(tmp_path / "a.mp4"), tmp_path / "x.mkv")
    named_mp4 = tmp_path / "x.mp4"
    shutil.copy(mkv, named_mp4)
    assert examine(str(named_mp4)) == examine(str(mkv))
    np.testing.assert_array_equal(read_frames(str(named_mp4), range(32), WHOLE), read_frames(str(mkv), range(32), WHOLE))


def test_sound_a_little_shorter_than_the_pictures_is_no_obstacle(tmp_path: Path) -> None:
    assert examine(str(write_clip(tmp_path / "x.mp4", sound_s=1.3))).num_frames == 32


def test_variable_frame_rate(tmp_path: Path) -> None:
    """Pictures 17 to 67 ms apart, the first not at zero."""
    ticks = np.random.default_rng(2).integers(1500, 6000, 60).cumsum()
    times = [Fraction(int(tick), 90_000) for tick in ticks]
    length_s = float(times[-1] - times[0]) + 0.04
    pictures = [np.full((64, 64, 3), 4 * index, np.uint8) for index in range(60)]
    path = tmp_path / "x.mp4"
    write_video(path, pictures, 25, hum(length_s), SOUND_RATE, times=times, sound_start_s=float(times[0]), preset="veryfast")
    found = examine(str(path))
    assert found.video_s == pytest.approx(length_s, abs=0.03)
    assert abs(found.num_frames - 16 * length_s) < 1
    shown = read_frames(str(path), range(found.num_frames), WHOLE).mean(axis=(1, 2, 3)) / 4
    nearest = [min(range(60), key=lambda k: abs(times[k] - times[0] - Fraction(frame, 16))) for frame in range(found.num_frames)]
    np.testing.assert_allclose(shown, nearest, atol=0.8)


def test_upright_8k(tmp_path: Path) -> None:
    """Scaled down to fit a bucket: four quarters keep their colours."""
    picture = np.empty((7680, 4320, 3), np.uint8)
    picture[:3840, :2160], picture[:3840, 2160:], picture[3840:, :2160], picture[3840:, 2160:] = 40, 90, 150, 220
    path = tmp_path / "x.mp4"
    write_video(path, [picture] * 2, 1, hum(2.0), SOUND_RATE, preset="ultrafast")
    assert examine(str(path)) == VideoFacts(4320, 7680, 32, 2.0, True)
    framing = centred(4320, 7680, 64, 64)
    assert framing == (64, 114, 0, 25, 64, 64)
    read = read_frames(str(path), [0, 20], framing).astype(int)
    for quarter, brightness in ((read[:, 4:28, 4:28], 40), (read[:, 4:28, 36:60], 90), (read[:, 36:60, 4:28], 150)):
        assert np.abs(quarter - brightness).max() <= 2
