"""A row of the plan to pictures and sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ray_s2v.data.features import sound_heard
from ray_s2v.data.rows import Row
from ray_s2v.media.audio import read_audio
from ray_s2v.media.video import read_frames
from ray_s2v.schema import HISTORY_FRAMES, SAMPLE_RATE, ClipError, Framing


def window_frames(kind: str, start_frame: int, num_frames: int) -> tuple[list[int], int]:
    """The 16-fps frames to encode, and how many of a continuation's 73 history frames lie before the clip's beginning.

    A first clip takes the frame before its window (the causal VAE needs one), or its own first frame twice where there is none.
    """
    if kind == "first":
        return [max(start_frame - 1, 0), *range(start_frame, start_frame + num_frames)], 0
    history = min(HISTORY_FRAMES, start_frame)
    return [*range(start_frame - history, start_frame + num_frames)], HISTORY_FRAMES - history


def pose_frames(start_frame: int, num_frames: int) -> list[int]:
    """The frames of the pose video to encode: the window's, the first of them twice. wan_s2v section 10."""
    return [start_frame, *range(start_frame, start_frame + num_frames)]


def framing_of(row: Mapping[str, Any]) -> Framing:
    return Framing(*(int(row[name]) for name in Framing._fields))


def decoded_video(row: Mapping[str, Any]) -> Row:
    """`pixels` uint8 [frames, height, width, 3], `missing_frames`, `reference_pixels` [1, height, width, 3], where there is a pose
    video `pose_pixels` [1 + num_frames, height, width, 3], and `video_error`, empty or the reason why all of these are black;
    `video_lost` says that it is none of the file's own, but a disk's or a network's.

    A clip that cannot be read keeps its place: dropping its row would shift every later row to another worker.
    """
    framing, start, num_frames = framing_of(row), int(row["start_frame"]), int(row["num_frames"])
    frames, missing = window_frames(row["kind"], start, num_frames)
    wanted = {"pixels": frames, "reference_pixels": [int(row["reference_frame"])]}
    found: Row = {"missing_frames": missing, "video_error": "", "video_lost": False}
    try:
        found |= {name: read_frames(row["video"], indices, framing) for name, indices in wanted.items()}
        if row["pose"]:
            found["pose_pixels"] = read_frames(row["pose"], pose_frames(start, num_frames), framing, black_after_end=True)
    except (ClipError, OSError) as reason:
        if row["pose"]:
            wanted["pose_pixels"] = pose_frames(start, num_frames)
        blank = {name: np.zeros((len(indices), framing.height, framing.width, 3), np.uint8) for name, indices in wanted.items()}
        found |= {**blank, "video_error": str(reason), "video_lost": isinstance(reason, OSError)}
    return found


def decoded_sound(row: Mapping[str, Any]) -> Row:
    """`waveform` float32 [samples] at 16 kHz, of all that the speech encoder hears, empty for a clip without sound, and
    `speech_error`, empty or the reason why the waveform is one second of silence; `speech_lost` as `video_lost`.
    """
    if not row["audio"]:
        return {"waveform": np.zeros(0, np.float32), "speech_error": "", "speech_lost": False}
    _, _, first, heard, _ = sound_heard(row)
    try:
        return {"waveform": read_audio(row["audio"], row["video"], int(first), int(heard)), "speech_error": "", "speech_lost": False}
    except (ClipError, OSError) as reason:
        lost = isinstance(reason, OSError)
        return {"waveform": np.zeros(SAMPLE_RATE, np.float32), "speech_error": str(reason), "speech_lost": lost}
