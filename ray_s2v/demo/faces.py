"""A drawn face that talks, and its voice: pictures and sound, no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "blue": (70, 110, 220),
    "green": (60, 150, 80),
    "yellow": (230, 200, 70),
    "pink": (240, 150, 180),
    "white": (235, 235, 230),
    "purple": (130, 80, 160),
    "red": (220, 70, 50),
    "grey": (120, 125, 130),
}
SHAPES = {"round": (0.34, 0.34), "long": (0.27, 0.42), "wide": (0.42, 0.29)}  # radii of the head over the short side
PITCHES = {"low": 95.0, "middle": 140.0, "high": 210.0}  # pulses of the glottis a second
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))  # Hz of the formants of a, i, u, e
FORMANT_WIDTH = 90.0  # Hz
SYLLABLE_S = 0.2
PAUSE_SHARE = 0.25  # of the syllables are silence
LOUDNESS_WINDOW_S = 0.05
MOUTH_COLOUR = (110, 20, 30)
EYE_COLOUR = (20, 20, 25)


@dataclass(frozen=True)
class Look:
    """What a clip shows and sounds like, and what its caption says."""

    shape: str
    face: str
    background: str
    pitch: str

    @property
    def caption(self) -> str:
        return f"a {self.shape} {self.face} face talks in a {self.pitch} voice on a {self.background} background"


def random_look(random: np.random.Generator) -> Look:
    """A face and a voice; the face is never of its background's colour."""
    face, background = random.choice(list(COLOURS), 2, replace=False)
    return Look(str(random.choice(list(SHAPES))), str(face), str(background), str(random.choice(list(PITCHES))))


def speak(length_s: float, sample_rate: int, pitch: float, random: np.random.Generator) -> NDArray[np.float32]:
    """A voice: pulses of the glottis through the formants of changing vowels, in syllables with pauses. [samples] in [-1, 1]."""
    num_samples = round(length_s * sample_rate)
    time = np.arange(num_samples) / sample_rate
    melody = pitch * (1 + 0.1 * np.sin(2 * np.pi * (0.7 * time + random.random())))
    cycles = np.cumsum(melody) / sample_rate
    pulses = np.diff(np.floor(cycles), prepend=0.0)
    num_syllables = int(np.ceil(length_s / SYLLABLE_S))
    vowels = random.integers(len(VOWELS), size=num_syllables)
    loudness = random.uniform(0.4, 1.0, num_syllables) * (random.random(num_syllables) >= PAUSE_SHARE)
    loudness[0] = 1.0  # no clip is silent
    syllable = np.minimum((time / SYLLABLE_S).astype(int), num_syllables - 1)
    envelope = loudness[syllable] * np.sin(np.pi * (time / SYLLABLE_S - syllable)) ** 2
    spoken = np.stack([_through_formants(pulses, formants, sample_rate) for formants in VOWELS])
    voice = spoken[vowels[syllable], np.arange(num_samples)] * envelope
    return np.asarray(0.8 * voice / abs(voice).max(), np.float32)


def loudness_at(sound: NDArray[np.float32], sample_rate: int, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square of the sound in a window of 50 ms about each time in seconds. sound: [samples]."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    edges = np.stack([times - LOUDNESS_WINDOW_S / 2, times + LOUDNESS_WINDOW_S / 2])
    begin, end = np.clip(np.rint(edges * sample_rate).astype(int), 0, len(sound))
    return np.sqrt((energy[end] - energy[begin]) / np.maximum(end - begin, 1))


def draw_face(look: Look, width: int, height: int, openings: NDArray[np.float64]) -> Iterator[NDArray[np.uint8]]:
    """A picture for each opening of the mouth between 0, shut, and 1: [height, width, 3] RGB."""
    side = min(width, height)
    x, y = (np.arange(width) - width / 2) / side, (np.arange(height)[:, None] - height / 2) / side
    head_width, head_height = SHAPES[look.shape]
    face = np.empty((height, width, 3), np.uint8)
    face[:] = COLOURS[look.background]
    face[_ellipse(x, y, 0.0, 0.0, head_width, head_height)] = COLOURS[look.face]
    for eye_x in (-0.4 * head_width, 0.4 * head_width):
        face[_ellipse(x, y, eye_x, -0.3 * head_height, 0.035, 0.05)] = EYE_COLOUR
    for opening in openings:
        picture = face.copy()
        picture[_ellipse(x, y, 0.0, 0.45 * head_height, 0.13, 0.012 + 0.1 * opening)] = MOUTH_COLOUR
        yield picture


def _ellipse(
    x: NDArray[np.float64], y: NDArray[np.float64], centre_x: float, centre_y: float, radius_x: float, radius_y: float
) -> NDArray[np.bool_]:
    """Which pixels lie inside: [height, width]."""
    return np.asarray(((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1)


def _through_formants(pulses: NDArray[np.float64], formants: tuple[int, ...], sample_rate: int) -> NDArray[np.float64]:
    """The pulses after a resonator for each formant. [samples], mean square 1."""
    length = 1 << len(pulses).bit_length()  # a power of two: lengths with large prime factors take ten times as long
    frequency = np.fft.rfftfreq(length, 1 / sample_rate)
    spectrum = np.fft.rfft(pulses - pulses.mean(), length)
    for formant in formants:
        spectrum = spectrum / (1 - (frequency / formant) ** 2 + 1j * frequency * FORMANT_WIDTH / formant**2)
    sound = np.fft.irfft(spectrum, length)[: len(pulses)]
    return np.asarray(sound / np.sqrt(np.mean(sound**2)))
