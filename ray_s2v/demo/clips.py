"""Talking clips made by code: a drawn face whose mouth opens with the loudness of a synthetic voice, and one clip of each bad kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_s2v.demo.faces import PITCHES, Look, draw_face, loudness_at, random_look, speak
from ray_s2v.media.write import write_video

NUM_CLIPS = 24
NUM_HELD_OUT = 3
SIZES = ((160, 160), (192, 108), (108, 192))
PICTURE_RATES = (Fraction(24), Fraction(25), Fraction(30_000, 1001), Fraction(30))
SOUND_RATES = (44_100, 48_000)


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
