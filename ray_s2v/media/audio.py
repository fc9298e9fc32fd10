"""The sound of a clip as the speech encoder wants it, whole or a span, and what it measures."""

from __future__ import annotations

from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_s2v.media.container import MAX_CLIP_S
from ray_s2v.media.sound import heard_from, sound_pieces
from ray_s2v.schema import SAMPLE_RATE, SAMPLES_PER_FRAME


class SoundFacts(NamedTuple):
    """What a sound measures, on the clock of `read_audio`."""

    start_s: float  # of the first sample, negative where it comes before zero
    end_s: float
    peak: float  # the largest |sample| from zero on, at most 1


def read_audio(audio: str, video: str, start_frame: int = 0, num_frames: int = 0) -> NDArray[np.float32]:
    """The sound, mono at 16 kHz, whole or of `num_frames` frames from `start_frame` on, up to its end: [samples] in [-1, 1].

    audio: the file that holds it. Zero is the moment of the first picture where that is the video itself, else the beginning of the sound
    file's own clock. Sound that begins later has zeros in front, what comes before is cut; channels are averaged.
    A span is reached by seeking and held alone. It is that part of the whole to the precision of float32, but for the dice that AAC
    throws where it stores noise by its loudness alone, and but for the file's clock: read from the start samples are counted, elsewhere
    the time in the file tells. Matroska's is in whole milliseconds, and a clock that drifts may be MAX_SLIP_S from the count.
    Raises ClipError for a file without sound or picture, damaged sound, and where nothing of what is wanted is there.
    """
    begin, wanted = start_frame * SAMPLES_PER_FRAME, num_frames * SAMPLES_PER_FRAME or MAX_CLIP_S * SAMPLE_RATE
    pieces, length = [], 0
    for start, samples in heard_from(begin, sound_pieces(audio, video, begin)):
        length = max(length, min(start + len(samples), wanted))
        if start >= wanted:
            break
        pieces.append((start, samples))
    sound = np.zeros(length, np.float32)
    for start, samples in pieces:
        sound[start : start + len(samples)] = samples[: length - start]
    return sound


def measure_audio(audio: str, video: str) -> SoundFacts:
    """Where the sound begins and ends and how loud it gets; everything is decoded, and a piece held at a time.

    Raises ClipError for a file without sound or picture, damaged sound, and sound that ends before zero.
    """
    pieces = sound_pieces(audio, video)
    first = list(islice(pieces, 1))
    end, peak = 0, 0.0
    for start, samples in heard_from(0, chain(first, pieces)):
        end, peak = max(end, start + len(samples)), max(peak, float(abs(samples).max()))
    return SoundFacts(first[0][0] / SAMPLE_RATE, end / SAMPLE_RATE, peak)
