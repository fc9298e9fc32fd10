"""The sound of a clip as the speech encoder wants it, on the clock of the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, groupby

import numpy as np
from av import AudioFrame, AudioLayout, AudioResampler
from numpy.typing import NDArray

from ray_s2v.media.container import MAX_CLIP_S, audio_stream, first_picture, open_media, time_of
from ray_s2v.schema import SAMPLE_RATE, ClipError

MAX_SLIP_S = Fraction(20, 1000)  # one step of the speech encoder; a larger gap or overlap in the file is placed by its time


def read_audio(path: str) -> NDArray[np.float32]:
    """The whole sound, mono at 16 kHz, beginning at the moment of the first picture: [samples] in [-1, 1].

    Sound that begins later has zeros in front, what comes before the picture is cut; channels are averaged.
    Raises ClipError for a file without sound or picture, damaged sound, and sound that ends before the picture begins.
    """
    zero = time_of(first_picture(path))
    with open_media(path) as container:
        pieces = list(_pieces(container.decode(audio_stream(container)), zero))
    length = max((start + len(samples) for start, samples in pieces), default=0)
    if length <= 0:
        raise ClipError("no sound while there are pictures")
    if length > MAX_CLIP_S * SAMPLE_RATE:
        raise ClipError(f"the sound's clock runs to {length / SAMPLE_RATE:g} s")
    sound = np.zeros(length, np.float32)
    for start, samples in pieces:
        sound[max(start, 0) : max(start + len(samples), 0)] = samples[max(-start, 0) :]
    return np.clip(sound, -1, 1, out=sound)


def _pieces(frames: Iterable[AudioFrame], zero: Fraction) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Resampled sound in pieces, each with the sample at which it begins, counted from `zero` and negative before it."""
    for _, run in groupby(frames, key=_RunNumber()):
        first = next(run)
        start = round((time_of(first) - zero) * SAMPLE_RATE)
        for samples in _resampled(chain([first], run), first.layout):
            yield start, samples
            start += len(samples)


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


def _resampled(frames: Iterable[AudioFrame], layout: AudioLayout) -> Iterator[NDArray[np.float32]]:
    """One run at 16 kHz, the mean of its channels. The first sample is at the time of the first piece."""
    # Samples of all channels side by side: of eight or more separate planes PyAV reads past the last, and crashes.
    resampler = AudioResampler(format="flt", layout=layout, rate=SAMPLE_RATE)
    for frame in chain(frames, [None]):  # None empties the resampler
        for resampled in resampler.resample(frame):
            if resampled is not None:  # what a resampler that had nothing to do gives when emptied
                yield resampled.to_ndarray().reshape(-1, layout.nb_channels).mean(axis=1)
