"""Videos, sounds and captions of a folder."""

from __future__ import annotations

import io
import os
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.clips import tone, write_wav
from tests.malformed.entry import Entry
from tests.malformed.sources import clip_bytes, put_good, read_source
from tests.malformed.special import IN_PLACE_OF_A_FILE

SIDE_OF_A_BOMB = 16_000
BOXES = (
    b"ftyp",
    b"moov",
    b"mvhd",
    b"trak",
    b"tkhd",
    b"mdia",
    b"mdhd",
    b"hdlr",
    b"stbl",
    b"stsd",
    b"stts",
    b"stsc",
    b"stsz",
    b"stco",
    b"mdat",
)
NUMBERS = {"zeros": b"\0\0\0\0", "ones": b"\xff\xff\xff\xff", "the largest": b"\x7f\xff\xff\xff"}
# Where numbers lie behind the name of a box: version and flags first.
FIELDS = {
    "mvhd": {"timescale": 12, "duration": 16},
    "mdhd": {"timescale": 12, "duration": 16},
    "tkhd": {"duration": 20, "matrix": 40, "width": 76, "height": 80},
    "stts": {"count": 4, "samples": 8, "delta": 12},
    "stsc": {"count": 4, "first chunk": 8, "samples": 12},
    "stsz": {"size": 4, "count": 8, "first": 12},
    "stco": {"count": 4, "first": 8},
    "avc1": {"sizes": 24},
    "ctts": {"count": 4, "offset": 12},
    "elst": {"count": 4, "duration": 8, "start": 12, "rate": 16},
}


@cache
def copied(suffix: str, tracks: str = "va") -> bytes:
    """The good clip's packets in another container, or some of its tracks."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"x{suffix}"
        with av.open(io.BytesIO(clip_bytes())) as reader, av.open(target, "w") as writer:
            streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams if stream.type[0] in tracks}
            for packet in reader.demux(*(reader.streams[index] for index in streams)):
                if packet.size:
                    packet.stream = streams[packet.stream_index]
                    writer.mux(packet)
        return target.read_bytes()


@cache
def wav() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_wav(Path(folder) / "x.wav", tone(24_000))
        return (Path(folder) / "x.wav").read_bytes()


def png(width: int, height: int) -> bytes:
    """A picture of one colour: what takes gigabytes to decode is a few megabytes long, or less."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@cache
def bomb() -> bytes:
    """A video of 24 huge pictures and a tone."""
    with tempfile.TemporaryDirectory() as folder:
        target, picture = Path(folder) / "x.mov", png(SIDE_OF_A_BOMB, SIDE_OF_A_BOMB)
        with av.open(target, "w") as writer:
            stream: Any = writer.add_stream("png", rate=16)
            stream.width, stream.height, stream.pix_fmt = SIDE_OF_A_BOMB, SIDE_OF_A_BOMB, "monob"
            for number in range(24):
                packet = av.Packet(picture)
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 16)
                writer.mux(packet)
        return target.read_bytes()


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def patched(content: bytes, box: str, place: int, new: bytes, which: int = 0) -> bytes:
    """The bytes with others `place` behind a box's name."""
    at = -1
    for _ in range(which + 1):
        at = content.index(box.encode(), at + 1)
    at += 4 + place
    return content[:at] + new + content[at + len(new) :]


def flipped(content: bytes, seed: int, flips: int = 8) -> bytes:
    """The bytes with some of them others."""
    draws, changed = random.Random(seed), bytearray(content)
    for _ in range(flips):
        changed[draws.randrange(len(changed))] = draws.randrange(256)
    return bytes(changed)


def contents() -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Title, name and bytes of files that stand where a clip should."""
    for title, content in {
        "one byte": b"\0", "zeros": bytes(100_000), "noise": random.Random(1).randbytes(50_000),
        "text": b"a caption that someone named .mp4\n" * 100, "a page of errors": b"<html><body>404 Not Found</body></html>",
        "a pickle": b"cos\nsystem\n(S'touch RAN'\ntR.", "a playlist of the network": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
        "a playlist of files": b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.5,\ngood.mp4\n#EXT-X-ENDLIST\n",
        "a list to be joined": b"ffconcat version 1.0\nfile good.mp4\n", "a session that asks the network":
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "a manifest of the network": b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>',
        "a program": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 40, "a zip": b"PK\x03\x04" + bytes(100), "a PDF": b"%PDF-1.7\n1 0 obj\n",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(RAN) (w) file closefile\n",
        "subtitles": b"1\n00:00:01,000 --> 00:00:04,000\nHello\n",
    }.items():  # fmt: skip
        yield title, "x.mp4", lambda content=content: content  # type: ignore[misc]
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        yield f"a picture, {kind}", "x.mp4", partial(_picture, kind)
    for share in (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99):
        yield f"mp4, {share} % of it", "x.mp4", lambda share=share: clip_bytes()[: len(clip_bytes()) * share // 100]  # type: ignore[misc]
    for suffix in (".mkv", ".mov"):
        for share in (5, 30, 60, 90):
            yield (
                f"{suffix[1:]}, {share} % of it",
                f"x{suffix}",
                (
                    lambda suffix=suffix, share=share: copied(suffix)[: len(copied(suffix)) * share // 100]  # type: ignore[misc]
                ),
            )
        for seed in range(6):
            yield f"{suffix[1:]}, bytes changed {seed}", f"x{suffix}", lambda suffix=suffix, seed=seed: flipped(copied(suffix), seed)  # type: ignore[misc]
    for seed in range(12):
        yield f"mp4, bytes changed {seed}", "x.mp4", lambda seed=seed: flipped(clip_bytes(), seed)  # type: ignore[misc]
    for seed in range(12):
        yield f"mp4, bytes of the header changed {seed}", "x.mp4", lambda seed=seed: _header_flipped(seed)  # type: ignore[misc]
    for box in BOXES:
        for title, number in NUMBERS.items():
            yield (
                f"mp4, the size of {box.decode()} is {title}",
                "x.mp4",
                (
                    lambda box=box, number=number: patched(clip_bytes(), box.decode(), -8, number)  # type: ignore[misc]
                ),
            )
    for name, fields in FIELDS.items():
        for field, place in fields.items():
            for title, number in NUMBERS.items():
                yield (
                    f"mp4, {field} of {name} is {title}",
                    "x.mp4",
                    (
                        lambda name=name, place=place, number=number: _patched_if_there(name, place, number)  # type: ignore[misc]
                    ),
                )
    yield "mp4 in mp4 5000 deep", "x.mp4", lambda: _nested(5000)
    yield "two clips one behind the other", "x.mp4", lambda: clip_bytes() + clip_bytes(seed=3)
    yield "a clip and a zip behind it", "x.mp4", lambda: clip_bytes() + b"PK\x03\x04" * 1000
    yield "sound alone", "x.mp4", lambda: copied(".m4a", "a")
    yield "pictures alone", "x.mp4", lambda: copied(".mp4", "v")
    yield "a WAV", "x.mp4", wav
    yield "an mkv", "x.mp4", lambda: copied(".mkv")
    yield "huge pictures that take few bytes", "x.mov", bomb
    yield "one picture", "x.mp4", lambda: clip_bytes(num_frames=1)
    yield "silence", "x.mp4", lambda: clip_bytes(sound=_Quiet())
    yield "sound twice as long as the pictures", "x.mp4", lambda: clip_bytes(num_frames=8)


class _Quiet(np.ndarray):
    """Zeros that can be the key of a cache."""

    def __new__(cls) -> _Quiet:
        return np.zeros(24_000, np.float32).view(cls)

    def __hash__(self) -> int:  # type: ignore[override]
        return 1

    def __eq__(self, other: object) -> Any:
        return isinstance(other, _Quiet)


def _header_flipped(seed: int) -> bytes:
    content = clip_bytes()
    end = content.index(b"mdat")
    return flipped(content[:end], seed) + content[end:]


def _patched_if_there(name: str, place: int, number: bytes) -> bytes:
    return patched(clip_bytes(), name, place, number) if name.encode() in clip_bytes() else clip_bytes()[::-1]


def _nested(levels: int) -> bytes:
    content = b""
    for _ in range(levels):
        content = struct.pack(">I4s", len(content) + 8, b"moov") + content
    return clip_bytes()[:32] + content


def _put(folder: Path, name: str, content: Callable[[], bytes]) -> None:
    put_good(folder)
    (folder / name).write_bytes(content())
    (folder / f"{Path(name).stem}.txt").write_text("a caption")


CAPTIONS: dict[str, bytes] = {
    "empty": b"", "of spaces": b" \n\t\n", "in Latin-1": "größe".encode("latin-1"), "in UTF-16": "a face".encode("utf-16"),
    "cut off in a letter": "größe".encode()[:3], "with nulls": b"a\0b", "with control characters": b"a \x1b[31m face\x07",
    "of two MiB": b"x" * (2 << 20), "of ten thousand lines": b"a face\n" * 10_000, "of half characters": b"\xed\xa0\x80",
    "with a mark": b"\xef\xbb\xbfa face", "that is a program": b"\x7fELF\x02\x01\x01" + bytes(range(256)),
}  # fmt: skip


def _put_caption(folder: Path, content: bytes) -> None:
    put_good(folder)
    (folder / "x.mp4").write_bytes(clip_bytes())
    (folder / "x.txt").write_bytes(content)


def _put_special(folder: Path, maker: Callable[[Path], object], name: str) -> None:
    put_good(folder)
    if name != "x.mp4":
        (folder / "x.mp4").write_bytes(clip_bytes())
    if name != "x.txt":
        (folder / "x.txt").write_text("a caption")
    maker(folder / name)


def _folders() -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield "a folder linked to itself", lambda folder: (put_good(folder), (folder / "more").symlink_to(folder))
    yield "a name that is not UTF-8", lambda folder: (put_good(folder), Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.mp4")).touch())
    yield "a name of control characters", lambda folder: _put(folder, "x\n\x1b[31m.mp4", clip_bytes)
    yield (
        "a name that looks like a tar's member",
        lambda folder: ((folder / "a.tar#0+9").mkdir(), _put(folder, "a.tar#0+9/x.mp4", clip_bytes)),
    )
    yield "a name that looks like an address", lambda folder: ((folder / "http:").mkdir(), _put(folder, "http:/x.mp4", clip_bytes))
    yield "a name that looks like a pattern", lambda folder: _put(folder, "x%03d.mp4", clip_bytes)
    yield "a name that looks like a protocol", lambda folder: _put(folder, "concat:good.mp4|good.mp4", clip_bytes)
    yield "a name of 255 bytes", lambda folder: _put(folder, "x" * 251 + ".mp4", clip_bytes)
    yield "a hidden file", lambda folder: (put_good(folder), (folder / ".x.mp4").write_bytes(b"x"))
    yield "files of other kinds", lambda folder: (put_good(folder), [(folder / name).write_bytes(b"x") for name in ("a.doc", "b", "c.jpg")])
    yield (
        "the same clip twice",
        lambda folder: (
            _put(folder, "x.mp4", clip_bytes),
            (folder / "y.mp4").write_bytes(clip_bytes()),
            (folder / "y.txt").write_text("y"),
        ),
    )
    yield "a caption missing", lambda folder: (put_good(folder), (folder / "x.mp4").write_bytes(clip_bytes()))
    yield "nested 200 deep", lambda folder: ((folder / ("d/" * 200)).mkdir(parents=True), put_good(folder))


SOUNDS: dict[str, Callable[[], bytes]] = {
    "of zero bytes": lambda: b"", "of text": lambda: b"hello", "cut off in its header": lambda: wav()[:20], "of a header alone": lambda: wav()[:44],
    "of no samples a second": lambda: patched(wav(), "fmt ", 8, b"\0\0\0\0"), "of four thousand million samples a second":
    lambda: patched(wav(), "fmt ", 8, b"\xff\xff\xff\xff"), "of no channels": lambda: patched(wav(), "fmt ", 6, b"\0\0"),
    "of 65535 channels": lambda: patched(wav(), "fmt ", 6, b"\xff\xff"), "of an unknown kind": lambda: patched(wav(), "fmt ", 4, b"\x99\x99"),
    "of no bits": lambda: patched(wav(), "fmt ", 18, b"\0\0"), "that promises more": lambda: patched(wav(), "data", 0, b"\xff\xff\xff\x7f"),
    "of a video": lambda: clip_bytes(), "of a picture": lambda: _picture("PNG"), "cut in half": lambda: wav()[: len(wav()) // 2],
}  # fmt: skip


def _put_sound(folder: Path, content: Callable[[], bytes]) -> None:
    put_good(folder)
    (folder / "good.wav").write_bytes(wav())
    (folder / "x.mp4").write_bytes(clip_bytes())
    (folder / "x.txt").write_text("a caption")
    (folder / "x.wav").write_bytes(content())


def _read_with_sound(given: Path) -> Any:
    return read_source(given, audio_path=str(given))


def entries() -> Iterator[Entry]:
    for title, name, content in contents():
        yield Entry("clip", title, partial(_put, name=name, content=content), read_source)
    for title, maker in IN_PLACE_OF_A_FILE.items():
        for name in ("x.mp4", "x.txt") if not title.startswith("64 GiB") else ("x.txt",):  # of a clip all would be read
            yield Entry("clip", f"{name} is {title}", partial(_put_special, maker=maker, name=name), read_source)
    for title, caption in CAPTIONS.items():
        yield Entry("caption", title, partial(_put_caption, content=caption), read_source)
    for title, make in _folders():
        yield Entry("folder", title, make, read_source)
    for title, content in SOUNDS.items():
        yield Entry("sound", title, partial(_put_sound, content=content), _read_with_sound)
