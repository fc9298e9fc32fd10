"""The sound of a file as it is stored: for people, not for the speech encoder."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from av import AudioResampler
from numpy.typing import NDArray

from ray_s2v.media.container import MAX_CLIP_S
from ray_s2v.media.sound import stored_pieces
from ray_s2v.schema import ClipError


def stored_sound(audio: str, video: str) -> tuple[NDArray[np.float32], int]:
    """The whole sound, [channels, samples] in [-1, 1], and its samples a second: at the file's own rate, in stereo where it has channels.

    On the clock of media/audio.py's read_audio, zero being the first sample. Raises ClipError as that does.
    """
    pieces: list[tuple[int, NDArray[np.float32]]] = []
    form, rate, layout = None, 0, "mono"
    for moment, frame in stored_pieces(audio, video):
        if not rate:
            rate, layout = frame.sample_rate, "mono" if frame.layout.nb_channels == 1 else "stereo"
        if form != (form := (frame.format.name, frame.layout.name, frame.sample_rate)):
            resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
        start = round(moment * rate)
        for converted in resampler.resample(frame):
            samples = converted.to_ndarray().astype(np.float32).clip(-1, 1)
            pieces.append((start, samples))
            start += samples.shape[1]
        if start > MAX_CLIP_S * rate:
            raise ClipError(f"the sound's clock runs to {Fraction(start, rate):g} s")
    heard = [(max(start, 0), samples[:, max(-start, 0) :]) for start, samples in pieces]
    length = max((start + samples.shape[1] for start, samples in heard), default=0)
    if not length:
        raise ClipError("no sound while there are pictures")
    sound = np.zeros((1 if layout == "mono" else 2, length), np.float32)
    for start, samples in heard:
        sound[:, start : start + samples.shape[1]] = samples
    return sound, rate
