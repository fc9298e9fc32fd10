"""What is in a clip, and is it usable: everything is demuxed, of the pictures only the first is decoded, and the sound elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from ray_s2v.media.audio import SoundFacts
from ray_s2v.media.container import MAX_CLIP_S, first_picture, open_media, tick_of, time_of, video_stream
from ray_s2v.media.picture import pixel_aspect, shown_size
from ray_s2v.schema import FRAME_RATE, ClipError

SILENT_PEAK = 1e-4  # below -80 dB there is nothing to speak to
MAX_MISMATCH_S = 1.0  # of sound and pictures, at either end
MAX_MISSING_S = 0.5  # headers round; a file whose packets end earlier than this is cut off
PICTURE_RATES = (1, 1000)  # pictures a second, on average


class VideoFacts(NamedTuple):
    """What the pictures of a clip are."""

    width: int  # as shown, after rotation and with square pixels
    height: int
    num_frames: int  # at 16 frames a second
    video_s: float  # from the first picture to the end of the last
    has_audio: bool  # whether there is a sound track in the file as well


class _Span(NamedTuple):
    """What demuxing tells of a track: seconds on the file's clock."""

    end: Fraction
    num_packets: int


def probe_video(place: str) -> VideoFacts:
    """Size, length and number of 16-fps frames; the last frame may be half over when the pictures end.

    Raises ClipError with the reason for a file that is empty, not a video, without pictures or of a single one, and for one of which
    something is missing: of the pictures or, where it has one, of the sound track.
    """
    with open_media(place) as container:
        video, audio = video_stream(container), container.streams.audio[:1]
        aspect = pixel_aspect(video)
        pictures, *_ = _spans(container, (video, *audio))
    opening = first_picture(place)
    width, height = shown_size(opening, aspect)
    video_s = pictures.end - time_of(opening)
    _check_pictures(pictures.num_packets, video_s)
    return VideoFacts(width, height, floor(video_s * FRAME_RATE + Fraction(1, 2)), float(video_s), bool(audio))


def check_sound(video: VideoFacts, sound: SoundFacts) -> None:
    """Raises ClipError where the sound is silent, or begins or ends more than a second apart from the pictures."""
    if abs(sound.start_s) > MAX_MISMATCH_S:
        raise ClipError(f"the sound begins {sound.start_s:+.1f} s from the pictures")
    if sound.peak < SILENT_PEAK:
        raise ClipError("the sound is silent")
    if abs(sound.end_s - video.video_s) > MAX_MISMATCH_S:
        raise ClipError(f"{sound.end_s:.1f} s of sound for {video.video_s:.1f} s of pictures")


def mismatch_s(video: VideoFacts, sound: SoundFacts) -> float:
    """Seconds by which sound and pictures are apart where they begin or where they end, whichever is more."""
    return max(abs(sound.start_s), abs(sound.end_s - video.video_s))


def _check_pictures(num_pictures: int, video_s: Fraction) -> None:
    """Raises ClipError where there are too few pictures, or too few or too many for their time."""
    if num_pictures < 2 or video_s <= 0:
        raise ClipError("no more than one picture")
    if video_s > MAX_CLIP_S:
        raise ClipError(f"the pictures' clock runs to {float(video_s):g} s")
    if not PICTURE_RATES[0] <= num_pictures / video_s <= PICTURE_RATES[1]:
        raise ClipError(f"{float(num_pictures / video_s):g} pictures a second")


def _spans(container: InputContainer, streams: Sequence[Stream]) -> list[_Span]:
    """What the tracks hold, without decoding. Raises ClipError where that is less than the header promises."""
    times: dict[int, list[tuple[Fraction, Fraction]]] = {stream.index: [] for stream in streams}
    for packet in container.demux(*streams):
        if packet.is_corrupt:
            raise ClipError("truncated or damaged: a packet is incomplete")
        if packet.size and not packet.is_discard:
            times[packet.stream_index].append(_packet_time(packet))
    spans = []
    for stream in streams:
        if not times[stream.index]:
            raise ClipError(f"truncated: nothing of the {stream.type} is there")
        spans.append(_span(times[stream.index]))
    latest = max(span.end for span in spans)
    for stream, span in zip(streams, spans, strict=True):
        promised = _promised_end(container, stream)
        held = span.end if stream.duration else latest
        if promised is not None and held < promised - MAX_MISSING_S:
            raise ClipError(f"truncated: {float(held):.1f} s of {float(promised):.1f} s are there")
    return spans


def _packet_time(packet: Packet) -> tuple[Fraction, Fraction]:
    """When a packet is shown and for how long, in seconds; 0 long where the file does not say."""
    stamp = packet.dts if packet.pts is None else packet.pts  # AVI gives the order of decoding only
    if stamp is None:
        raise ClipError("pictures or sound without times")
    return stamp * tick_of(packet), (packet.duration or 0) * tick_of(packet)


def _span(times: list[tuple[Fraction, Fraction]]) -> _Span:
    """End and number of packets; a last one that has no duration lasts as long as the one before."""
    ordered = sorted(times)
    last, duration = ordered[-1]
    if not duration and len(ordered) > 1:
        duration = last - ordered[-2][0]
    return _Span(last + duration, len(ordered))


def _promised_end(container: InputContainer, stream: Stream) -> Fraction | None:
    """Seconds on the file's clock up to which the header says there is something; None where it does not say."""
    if stream.duration:
        return ((stream.start_time or 0) + stream.duration) * tick_of(stream)
    if container.duration:
        return Fraction((container.start_time or 0) + container.duration, av.time_base)
    return None
