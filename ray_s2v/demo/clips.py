"""Talking clips made by code: a drawn face whose mouth opens with the loudness of a synthetic voice, and one clip of each bad kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_s2v.media.write import write_video

NUM_CLIPS = 24
NUM_HELD_OUT = 3
SIZES = ((160, 160), (192, 108), (108, 192))
PICTURE_RATES = (Fraction(24), Fraction(25), Fraction(30_000, 1001), Fraction(30))
SOUND_RATES = (44_100, 48_000)
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


@dataclass(frozen=True)
class Recording:
    """How a clip is taken."""

    width: int
    height: int
    fps: Fraction
    sample_rate: int
    length_s: float


def make_clips(folder: Path, seed: int = 0) -> None:
    """24 talking clips `clip_00.mp4` with captions `clip_00.txt`, and `bad_*.mp4`: one of each kind that is to be rejected.

    H.264 and AAC in stereo, 2 to 4.5 s long, in three sizes and four picture rates. Everything is a function of `seed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(NUM_CLIPS):
        random = np.random.default_rng((seed, index))
        write_clip(folder / f"clip_{index:02}.mp4", random_look(random), _recording(index, random), random)
    _make_bad_clips(folder, np.random.default_rng((seed, NUM_CLIPS)))


def make_held_out_clips(folder: Path, seed: int = 0) -> None:
    """Three more clips `held_out_0.mp4` of other faces and voices, of one size and long enough to be continued."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(NUM_HELD_OUT):
        random = np.random.default_rng((seed, 100 + index))
        recording = Recording(*SIZES[0], PICTURE_RATES[index % 4], SOUND_RATES[index % 2], random.uniform(3.5, 4.5))
        write_clip(folder / f"held_out_{index}.mp4", random_look(random), recording, random)


def write_clip(path: Path, look: Look, recording: Recording, random: np.random.Generator, caption: bool = True) -> None:
    """One talking clip, its caption written before it."""
    voice = speak(recording.length_s, recording.sample_rate, PITCHES[look.pitch], random)
    if caption:
        _write_bytes(path.with_suffix(".txt"), look.caption.encode())
    _write(path, look, recording, np.stack([voice, voice]))


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


def _recording(index: int, random: np.random.Generator) -> Recording:
    """Size, rates and length of clip `index`: every third clip is long enough to be continued, and those come in all sizes."""
    width, height = SIZES[index % 3]
    is_long = index % 3 == index // 3 % 3
    length_s = random.uniform(3.5, 4.5) if is_long else random.uniform(2.0, 3.4)
    return Recording(width, height, PICTURE_RATES[index % 4], SOUND_RATES[index // 4 % 2], length_s)


def _write(path: Path, look: Look, recording: Recording, sound: NDArray[np.float32] | None) -> None:
    """The face saying the sound, as MP4. sound: [channels, samples], or None for a clip that has no track for it."""
    times = np.arange(round(recording.length_s * recording.fps)) / float(recording.fps)
    if sound is None:
        openings = np.zeros(len(times))
    else:
        loudness = loudness_at(sound.mean(axis=0), recording.sample_rate, times)
        openings = loudness / max(loudness.max(), 1e-6)
    pictures = draw_face(look, recording.width, recording.height, openings)
    write_video(path, pictures, recording.fps, sound, recording.sample_rate, preset="ultrafast")


def _make_bad_clips(folder: Path, random: np.random.Generator) -> None:
    """One clip of each kind that is to be rejected; all but `bad_no_caption` have a caption."""
    look = random_look(random)
    recording = Recording(*SIZES[0], PICTURE_RATES[1], SOUND_RATES[1], 2.0)
    num_samples = round(recording.length_s * recording.sample_rate)
    for kind in ("empty", "text", "truncated", "no_sound", "silent"):
        _write_bytes(folder / f"bad_{kind}.txt", look.caption.encode())
    _write_bytes(folder / "bad_empty.mp4", b"")
    _write_bytes(folder / "bad_text.mp4", b"This is no video.\n")
    write_clip(folder / "bad_no_caption.mp4", look, recording, random, caption=False)
    whole = (folder / "bad_no_caption.mp4").read_bytes()
    _write_bytes(folder / "bad_truncated.mp4", whole[: len(whole) // 2])
    _write(folder / "bad_no_sound.mp4", look, recording, None)
    _write(folder / "bad_silent.mp4", look, recording, np.zeros((2, num_samples), np.float32))
    write_clip(folder / "bad_too_short.mp4", look, Recording(*SIZES[0], PICTURE_RATES[1], SOUND_RATES[1], 0.3), random)


def _write_bytes(path: Path, content: bytes) -> None:
    """A file that appears only when it is whole."""
    half_written = path.with_name(f".{path.name}.part")
    half_written.write_bytes(content)
    os.replace(half_written, path)
