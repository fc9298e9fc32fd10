"""A row of the plan to pictures and sound."""

from __future__ import annotations

from typing import Any

import numpy as np

from ray_s2v.media.audio import read_audio
from ray_s2v.media.video import read_frames
from ray_s2v.schema import HISTORY_FRAMES, SAMPLE_RATE, ClipError


def window_frames(kind: str, start_frame: int, num_frames: int) -> tuple[list[int], int]:
    """The 16-fps frames to encode, and how many of a continuation's 73 history frames lie before the clip's beginning.

    A first clip takes the frame before its window (the causal VAE needs one), or its own first frame twice where there is none.
    """
    if kind == "first":
        return [max(start_frame - 1, 0), *range(start_frame, start_frame + num_frames)], 0
    history = min(HISTORY_FRAMES, start_frame)
    return [*range(start_frame - history, start_frame + num_frames)], HISTORY_FRAMES - history


def decoded(row: dict[str, Any]) -> dict[str, Any]:
    """The row with `pixels` uint8 [frames, height, width, 3], `missing_frames`, `reference_pixels` [1, height, width, 3],
    `waveform` float32 [samples] at 16 kHz (the whole clip's) and `error`, empty or the reason why all of these are blank.

    A clip that cannot be read keeps its place: dropping its row would shift every later row to another worker.
    """
    frames, missing = window_frames(row["kind"], row["start_frame"], row["num_frames"])
    size = (row["width"], row["height"])
    try:
        pixels, waveform = read_frames(row["path"], frames, *size), read_audio(row["path"])
        reference, error = read_frames(row["path"], [row["reference_frame"]], *size), ""
    except (ClipError, OSError) as reason:
        pixels, reference = (np.zeros((count, row["height"], row["width"], 3), np.uint8) for count in (len(frames), 1))
        waveform, error = np.zeros(SAMPLE_RATE, np.float32), str(reason)
    return {**row, "pixels": pixels, "missing_frames": missing, "reference_pixels": reference, "waveform": waveform, "error": error}
