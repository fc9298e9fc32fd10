"""A video's sound as a WAV file, and its pictures as a video without sound. Either appears only when it is whole."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.packet import Packet

from ray_s2v.media.container import open_media, video_stream
from ray_s2v.media.sound import heard_from, sound_pieces
from ray_s2v.schema import SAMPLE_RATE

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
SAMPLE_BYTES = 2
WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


def write_wav(video: str, target: Path) -> None:
    """The sound as 16-bit mono WAV at 16 kHz whose beginning is the first picture, silence in front if the sound begins later.

    Reads and writes a piece at a time. Raises ClipError for a video without sound or picture, and damaged sound.
    """
    with _whole_or_not(target) as half_written, half_written.open("wb") as file:
        length = 0
        for start, samples in heard_from(0, sound_pieces(video, video)):
            file.seek(WAV_HEADER.size + start * SAMPLE_BYTES)  # what is passed over is zeros
            file.write(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
            length = max(length, start + len(samples))
        file.seek(0)
        file.write(_wav_header(length))


def write_without_sound(video: str, target: Path) -> None:
    """The pictures' packets as they are, with their times and turns, in a container of the target's suffix.

    For a video that `probe_video` accepts. Raises ClipError where that is damaged, OSError where the target cannot be written.
    """
    stream = None
    try:
        with _whole_or_not(target) as half_written, av.open(half_written, "w", format=MUXERS[target.suffix.lower()]) as writer:
            for packet in _picture_packets(video):
                stream = stream or writer.add_stream_from_template(packet.stream)
                packet.stream = stream
                writer.mux(packet)
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


def _picture_packets(video: str) -> Iterator[Packet]:
    """What is stored of the pictures."""
    with open_media(video) as container:
        for packet in container.demux(video_stream(container)):
            if packet.size:
                yield packet


@contextmanager
def _whole_or_not(target: Path) -> Iterator[Path]:
    """Where to write; moved to the target at the end of the block, and removed if that is not reached."""
    target.parent.mkdir(parents=True, exist_ok=True)
    half_written = target.with_name(f".{target.name}.part")
    try:
        yield half_written
        os.replace(half_written, target)
    finally:
        half_written.unlink(missing_ok=True)


def _wav_header(length: int) -> bytes:
    """Of so many samples."""
    num_bytes = length * SAMPLE_BYTES
    form = (16, 1, 1, SAMPLE_RATE, SAMPLE_RATE * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)  # whole numbers, one channel
    return WAV_HEADER.pack(b"RIFF", num_bytes + WAV_HEADER.size - 8, b"WAVE", b"fmt ", *form, b"data", num_bytes)
