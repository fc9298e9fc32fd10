"""A sound track in pieces, mono at 16 kHz, each with its place on the clip's clock: what reading, measuring and extracting take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, groupby
from math import floor, gcd

import av
import numpy as np
from av import AudioFrame, AudioResampler
from av.packet import Packet
from numpy.typing import NDArray

from ray_s2v.media.container import MAX_CLIP_S, audio_stream, first_picture, open_media, seek_points, tick_of, time_of
from ray_s2v.schema import SAMPLE_RATE, ClipError

MAX_SLIP_S = Fraction(20, 1000)  # one step of the speech encoder; a larger gap or overlap in the file is placed by its time
PRE_ROLL_S = Fraction(1)  # decoded before what is wanted: decoders remember, slow MP3 for half a second
WITHOUT_CLOCK = "mp3"  # its times begin at what the encoder put in front, and are guessed after seeking

Samples = NDArray[np.float32]  # [samples]
Piece = tuple[int, Samples]  # with the sample of the whole at which it begins


def sound_pieces(audio: str, video: str, begin: int = 0) -> Iterator[Piece]:
    """The sound in [-1, 1] in the order of the file, from the beginning, or from somewhere before the sample `begin` on.

    Samples are counted from zero: the moment of the first picture where the sound is in the video itself, else the beginning of the
    sound file's own clock. What comes before zero has negative numbers. Gaps are left out; where pieces overlap the later one holds.
    Raises ClipError for a file without sound or picture, and damaged sound.
    """
    zero = _zero(audio, video)
    frames = _decoded(audio, zero, zero + Fraction(begin, SAMPLE_RATE) - PRE_ROLL_S)
    for _, run in groupby(frames, key=_RunNumber()):
        yield from _placed(run, zero)


def stored_pieces(audio: str, video: str) -> Iterator[tuple[Fraction, AudioFrame]]:
    """The sound as it is stored, each piece with the moment on the same clock at which it begins. Raises ClipError as sound_pieces does."""
    zero = _zero(audio, video)
    for frame in _decoded(audio, zero, zero):
        yield time_of(frame) - zero, frame


def heard_from(begin: int, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces without what lies before the sample `begin`, counted from there. Raises ClipError where nothing is left."""
    nothing = True
    for start, samples in pieces:
        rest = samples[max(begin - start, 0) :]
        if len(rest):
            nothing = False
            yield max(start - begin, 0), rest
    if nothing:
        raise ClipError(f"the sound ends before {begin / SAMPLE_RATE:g} s" if begin else "no sound while there are pictures")


def _zero(audio: str, video: str) -> Fraction:
    """The first picture's moment on the file's clock where the sound is in the video; where the clock of a file of sound begins."""
    if audio == video:
        return time_of(first_picture(video))
    with open_media(audio) as container:
        stream = audio_stream(container)
        return (stream.start_time or 0) * tick_of(stream) if container.format.name == WITHOUT_CLOCK else Fraction(0)


def _decoded(audio: str, zero: Fraction, start: Fraction) -> Iterator[AudioFrame]:
    """The sound as it is stored, from the moment `start` on if that is after zero, else all of it."""
    for point in seek_points(zero, start):
        with open_media(audio) as container:
            if point is not None and container.format.name != WITHOUT_CLOCK:
                container.seek(int(point * av.time_base))  # to a picture: Matroska has no index of its sound
            packets = container.demux(audio_stream(container))
            first = next(packets)
            if point is None or (first.pts is not None and first.pts * tick_of(first) <= start):
                for packet in chain([first], packets):
                    if point is None or not _is_before(packet, start):
                        yield from packet.decode()
                return


def _is_before(packet: Packet, moment: Fraction) -> bool:
    """Whether the packet is over by then."""
    return packet.pts is not None and (packet.pts + (packet.duration or 0)) * tick_of(packet) < moment


class _RunNumber:
    """Called with one piece of sound after another: numbers the runs in which each begins where the last one ended."""

    def __init__(self) -> None:
        self.number = 0
        self.form: tuple[str, str, int] | None = None
        self.end = Fraction(0)

    def __call__(self, frame: AudioFrame) -> int:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self.form or abs(time_of(frame) - self.end) > MAX_SLIP_S:
            self.number += 1
            self.form, self.end = form, time_of(frame)
        self.end += Fraction(frame.samples, frame.sample_rate)
        return self.number


def _placed(run: Iterator[AudioFrame], zero: Fraction) -> Iterator[Piece]:
    """One run at 16 kHz. Raises ClipError where its clock is broken.

    Resampling begins with silence, at a moment for which both rates have a sample: so the phase, and with it every sample, is the same
    wherever in the file decoding began.
    """
    first = next(run)
    rate, moment = first.sample_rate, time_of(first) - zero
    silence = moment % Fraction(1, gcd(rate, SAMPLE_RATE))
    start, begin = floor((moment - silence) * SAMPLE_RATE), _rounded(moment * SAMPLE_RATE)
    chunks = chain([np.zeros(_rounded(silence * rate), np.float32)], _mono(chain([first], run), first))
    for samples in _resampled(chunks, rate):
        rest = samples[max(begin - start, 0) :]
        start += len(samples)
        if start > MAX_CLIP_S * SAMPLE_RATE:
            raise ClipError(f"the sound's clock runs to {start / SAMPLE_RATE:g} s")
        if len(rest):
            yield start - len(rest), np.clip(rest, -1, 1)


def _mono(frames: Iterable[AudioFrame], first: AudioFrame) -> Iterator[Samples]:
    """The mean of the channels, at the rate of the file."""
    # Samples of all channels side by side: of eight or more separate planes PyAV reads past the last, and crashes.
    side_by_side = AudioResampler(format="flt", layout=first.layout, rate=first.sample_rate)
    for frame in frames:
        for converted in side_by_side.resample(frame):
            yield converted.to_ndarray().reshape(-1, first.layout.nb_channels).mean(axis=1)


def _resampled(chunks: Iterable[Samples], rate: int) -> Iterator[Samples]:
    """Sound of any rate at 16 kHz. The first sample is that of the first chunk."""
    resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    for frame in chain(_frames(chunks, rate), [None]):  # None empties the resampler
        for resampled in resampler.resample(frame):
            if resampled is not None:  # what a resampler that had nothing to do gives when emptied
                yield resampled.to_ndarray()[0]


def _frames(chunks: Iterable[Samples], rate: int) -> Iterator[AudioFrame]:
    """Chunks that are not empty as FFmpeg takes them, one after the other."""
    start = 0
    for chunk in chunks:
        if len(chunk):
            frame = AudioFrame.from_ndarray(chunk[None], format="flt", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
            start += len(chunk)
            yield frame


def _rounded(number: Fraction) -> int:
    """The nearest whole number, of two the larger one, so that a sum with a whole number is rounded alike."""
    return floor(number + Fraction(1, 2))
