"""Talking clips, and what a run needs to learn from them with the small weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import wavfile

from ray_s2v.demo.faces import PITCHES, Look, draw_face, random_look, speak
from ray_s2v.media.write import write_video
from ray_s2v.schema import FRAME_RATE, SAMPLE_RATE, SAMPLES_PER_FRAME
from tests.learning.world import NUM_FRAMES, SIDE, loudness

WEIGHTS = Path(__file__).parent / "weights"
SPEECH = "wav2vec2-large-xlsr-53-english"
LENGTH = 6 * FRAME_RATE  # frames of a clip: continuations have all of their history
STEPS = 120
NUM_TRAINED, NUM_HELD_OUT = 24, 6


@dataclass(frozen=True)
class Talking:
    """A clip that was written, and what is true of it."""

    path: Path
    look: Look
    voice: NDArray[np.float32]
    loudness: NDArray[np.float64]  # of the voice at each frame, which is how far the mouth opens


def write_clips(folder: Path, numbers: range) -> list[Talking]:
    """Faces that say what is heard, each with its caption."""
    folder.mkdir(parents=True)
    made = []
    for number in numbers:
        random = np.random.default_rng((9, number))
        look = random_look(random)
        voice = speak(LENGTH / FRAME_RATE, SAMPLE_RATE, PITCHES[look.pitch], random)
        talking = Talking(folder / f"talking_{number}.mp4", look, voice, loudness(voice, LENGTH))
        pictures = draw_face(look, SIDE, SIDE, talking.loudness)
        write_video(talking.path, pictures, FRAME_RATE, voice, SAMPLE_RATE)
        talking.path.with_suffix(".txt").write_text(look.caption)
        made.append(talking)
    return made


def write_late_sounds(folder: Path, clips: list[Talking], late: int) -> None:
    """What the clips say, so many frames later than their mouths do."""
    folder.mkdir()
    for talking in clips:
        wavfile.write(folder / f"{talking.path.stem}.wav", SAMPLE_RATE, np.roll(talking.voice, late * SAMPLES_PER_FRAME))


@pytest.fixture(scope="session")
def held_out_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Talking]:
    return write_clips(tmp_path_factory.mktemp("learning") / "held_out", range(1000, 1000 + NUM_HELD_OUT))


def job_settings(clips: Path, held_out: Path, run: Path, sounds: Path | None = None) -> dict[str, Any]:
    """A job that learns from the clips, with their own sound or that of another folder, for STEPS steps."""
    # One window of each clip and kind: encoding them takes longest.
    clip = {"resolution": f"{SIDE}x{SIDE}", "num_frames": NUM_FRAMES, "windows_per_clip": 1}
    trained = {"path": str(clips), **clip, **({"audio_path": str(sounds)} if sounds else {})}
    return {
        "run": {"folder": str(run)},
        "data": {
            "store": str(run.parent / "store"),
            "decode_cpus": 0.25,
            "sources": [trained, {"path": str(held_out), "is_eval": True, **clip}],
        },
        "held_out": {"every": STEPS, "clips": NUM_HELD_OUT, "levels": 4},
        "encoders": {
            "vae": {"path": str(WEIGHTS / "vae"), "cpus": 0.2},
            "speech": {"path": str(WEIGHTS / SPEECH), "cpus": 0.1},
            "text": {"path": str(WEIGHTS / "text_encoder"), "tokenizer": str(WEIGHTS / "tokenizer"), "cpus": 0.1},
        },
        "model": {"path": str(WEIGHTS), "base_precision": "fp32"},
        "lora": {"rank": 16},
        "training": {
            "steps": STEPS,
            "global_batch": 8,
            "batch_size": 8,
            "worker_cpus": 0.5,
            "worker_gpus": 0,
            "learning_rate": 5e-3,
            "warmup_steps": 10,
        },
        "checkpoint": {"every": STEPS, "keep": 1},
        "sampling": {"size": f"{SIDE}x{SIDE}", "num_frames": NUM_FRAMES, "steps": 20, "guidance": 1.0},
    }
