"""Pictures and sound in, one H.264 and AAC file out, the two in step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from heapq import merge
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av import AudioFrame, Packet, VideoFrame
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ray_s2v.media.container import time_of
from ray_s2v.schema import SAMPLE_RATE

Piece = TypeVar("Piece", VideoFrame, AudioFrame)

TIME_BASE = Fraction(1, 90_000)  # exact for 16, 24, 25, 30000/1001, 30, 50 and 60 pictures a second
LAYOUTS = {1: "mono", 2: "stereo"}
SOUND_CHUNK = 1024  # samples handed to the encoder at a time: one AAC frame


def write_video(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    fps: Fraction | int,
    sound: NDArray[np.float32] | None = None,
    sample_rate: int = SAMPLE_RATE,
    *,
    times: Sequence[Fraction] | None = None,
    sound_start_s: float = 0.0,
    faststart: bool = True,
    crf: int = 18,
    preset: str = "medium",
    keyframe_every: int = 48,
) -> None:
    """An MP4 at `path`, which appears only when it is whole.

    frames: [height, width, 3] RGB each, even sides; taken one by one. sound: [samples] or [channels, samples] in [-1, 1].
    times: when each picture is shown, in seconds, for a variable rate; without it picture i is shown at i / fps.
    The last picture is shown for 1 / fps. `faststart` puts the header in front, as files for the web have it.
    """
    path = Path(path)
    half_written = path.with_name(f".{path.name}.part")
    rate = Fraction(fps)
    pictures = _video_frames(frames, rate, times)
    first = next(pictures)
    encoder_options = {"crf": str(crf), "preset": preset, "g": str(keyframe_every)}
    muxer_options = {"movie_timescale": str(TIME_BASE.denominator), "movflags": "+faststart" if faststart else "0"}
    try:
        with av.open(half_written, "w", format="mp4", container_options=muxer_options) as container:
            video = _add_video(container, first, rate, encoder_options)
            tracks = [_packets(video.encode, chain([first], pictures))]
            if sound is not None:
                channels = np.atleast_2d(sound).astype(np.float32)
                audio = container.add_stream("aac", rate=sample_rate, layout=LAYOUTS[len(channels)])
                tracks.append(_packets(audio.encode, _audio_frames(channels, sample_rate, sound_start_s)))
            # Earliest first, so that the muxer need not hold one track back for the other.
            for _, packets in merge(*tracks, key=itemgetter(0)):
                container.mux(packets)
        os.replace(half_written, path)
    finally:
        half_written.unlink(missing_ok=True)


def _packets(encode: Callable[[Piece | None], list[Packet]], pieces: Iterable[Piece]) -> Iterator[tuple[Fraction, list[Packet]]]:
    """What the encoder gives for each piece, with the piece's time in seconds, and in the end what it held back."""
    time = Fraction(0)
    for piece in pieces:
        time = time_of(piece)
        yield time, encode(piece)
    yield time, encode(None)


def _add_video(container: OutputContainer, first: VideoFrame, fps: Fraction, options: dict[str, str]) -> VideoStream:
    """A track for H.264 in BT.709, the size of the first picture, with times exact to 1 / 90000 s."""
    video = container.add_stream("libx264", rate=fps, options=options)
    video.width, video.height, video.pix_fmt = first.width, first.height, "yuv420p"
    video.codec_context.time_base = TIME_BASE
    video.codec_context.colorspace = Colorspace.ITU709
    video.codec_context.color_primaries = ColorPrimaries.BT709
    video.codec_context.color_trc = ColorTrc.BT709
    video.codec_context.color_range = ColorRange.MPEG
    return video


def _video_frames(frames: Iterable[NDArray[np.uint8]], fps: Fraction, times: Sequence[Fraction] | None) -> Iterator[VideoFrame]:
    """The pictures in the encoder's colours, each with its time. Raises ValueError if there are not as many times as pictures."""
    timed = zip(frames, times, strict=True) if times is not None else ((picture, index / fps) for index, picture in enumerate(frames))
    for picture, time in timed:
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.time_base = TIME_BASE
        frame.pts = round(time / TIME_BASE)
        frame.duration = round(1 / fps / TIME_BASE)
        yield frame


def _audio_frames(channels: NDArray[np.float32], sample_rate: int, start_s: float) -> Iterator[AudioFrame]:
    """The sound in pieces, each with its time. channels: [channels, samples]."""
    start = round(start_s * sample_rate)
    for begin in range(0, channels.shape[1], SOUND_CHUNK):
        piece = np.ascontiguousarray(channels[:, begin : begin + SOUND_CHUNK])
        frame = AudioFrame.from_ndarray(piece, format="fltp", layout=LAYOUTS[len(channels)])
        frame.sample_rate = sample_rate
        frame.time_base = Fraction(1, sample_rate)
        frame.pts = start + begin
        yield frame
