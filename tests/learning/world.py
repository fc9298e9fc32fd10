"""The world that the small network comes from: faces whose mouths move by themselves, under a lamp that follows the voice.

It has seen faces, mouths and voices, and knows what a voice does to a picture, but not that mouths speak: that is left to be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_s2v.demo.faces import COLOURS, PITCHES, Look, draw_face, loudness_at, random_look, speak
from ray_s2v.schema import FRAME_RATE, SAMPLE_RATE

SIDE = 64  # pixels
NUM_FRAMES = 16  # of a clip
DIMMED = 0.6  # of the background's light, where the voice is loudest


@dataclass(frozen=True)
class Shown:
    """A clip at 16 pictures a second."""

    pictures: NDArray[np.uint8]  # [frames, height, width, 3]
    sound: NDArray[np.float32]  # [samples], 16 kHz
    caption: str


def loudness(sound: NDArray[np.float32], num_frames: int) -> NDArray[np.float64]:
    """How loud it is at each frame, 1 where it is loudest."""
    heard = loudness_at(sound, SAMPLE_RATE, np.arange(num_frames) / FRAME_RATE)
    return heard / heard.max()


def lamp_lit(seed: int, num_frames: int) -> Shown:
    """A clip of this world: the mouth moves as if it said what is not heard, and the background darkens with what is."""
    random = np.random.default_rng((5, seed))
    look = random_look(random)
    heard, unheard = (speak(num_frames / FRAME_RATE, SAMPLE_RATE, PITCHES[look.pitch], random) for _ in range(2))
    return _shown(look, loudness(unheard, num_frames), loudness(heard, num_frames), heard)


def spoken(seed: int, num_frames: int) -> Shown:
    """A clip of the world that is to be learnt, as the demo's are: the mouth says what is heard, the lamp is still."""
    random = np.random.default_rng((6, seed))
    look = random_look(random)
    sound = speak(num_frames / FRAME_RATE, SAMPLE_RATE, PITCHES[look.pitch], random)
    return _shown(look, loudness(sound, num_frames), np.zeros(num_frames), sound)


def _shown(look: Look, openings: NDArray[np.float64], dimming: NDArray[np.float64], sound: NDArray[np.float32]) -> Shown:
    pictures = np.stack(list(draw_face(look, SIDE, SIDE, openings)))
    behind = (pictures == np.array(COLOURS[look.background], np.uint8)).all(-1, keepdims=True)
    light = 1 - (1 - DIMMED) * dimming[:, None, None, None]
    return Shown(np.where(behind, (pictures * light).astype(np.uint8), pictures), sound, look.caption)
