"""Which part of a clip a row shows: frames, a reference frame outside them, a cut of the picture, and the sound heard with them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ray_s2v.config.source import Source
from ray_s2v.data.draws import pick
from ray_s2v.schema import FRAME_RATE, HISTORY_FRAMES, MAX_HEARD_S, Clip, Kind


class Window(NamedTuple):
    """Frames at 16 a second and pixels."""

    start_frame: int
    reference_frame: int
    left: int
    top: int
    heard_start: int
    heard_frames: int  # 0 for all of the sound


def min_history(num_frames: int) -> int:
    """Frames that must lie before a continuation's window: what the sampler has after one first clip of that length, at most 73."""
    return min(HISTORY_FRAMES, num_frames - 3)


def can_continue(clip: Clip) -> bool:
    return clip.num_frames - clip.bucket.num_frames >= min_history(clip.bucket.num_frames)


def window_of(clip: Clip, source: Source, kind: Kind, draw: np.random.Generator) -> Window:
    """What is drawn is drawn in the same order whatever the settings, so that none of them changes what another one draws."""
    for_start, for_reference, for_left, for_top, for_heard = draw.random(5)
    start = _start(clip, source, kind, for_start)
    return Window(
        start,
        _outside(clip, start, for_reference),
        _corner(clip.scaled_width - clip.bucket.width, source, for_left),
        _corner(clip.scaled_height - clip.bucket.height, source, for_top),
        *heard_part(clip, source, start, for_heard),
    )


def _start(clip: Clip, source: Source, kind: Kind, uniform: float) -> int:
    first = min_history(clip.bucket.num_frames) if kind == "continuation" else 0
    last = clip.num_frames - clip.bucket.num_frames
    if source.window == "random":
        return first + pick(uniform, last - first + 1)
    return first if source.window == "beginning" else last


def _outside(clip: Clip, start: int, uniform: float) -> int:
    """A frame that is not in the window; its first one where there is no other."""
    others = clip.num_frames - clip.bucket.num_frames
    if not others:
        return start
    frame = pick(uniform, others)
    return frame if frame < start else frame + clip.bucket.num_frames


def _corner(margin: int, source: Source, uniform: float) -> int:
    """Where the cut begins, of so many pixels that do not fit in it."""
    if source.crop == "random":
        return pick(uniform, margin + 1)
    return margin // 2 if source.crop == "center" else 0


def heard_part(clip: Clip, source: Source, start_frame: int, uniform: float) -> tuple[int, int]:
    """First frame and length of the sound that is heard with a window; (0, 0), all of it, up to MAX_HEARD_S.

    A longer sound is heard in a part of at most MAX_HEARD_S that holds the whole window. Parts begin on a grid of
    `duration_interval`; the last one ends on it, at or right after the end of sound and pictures.
    """
    if clip.audio_s <= MAX_HEARD_S:
        return 0, 0
    grid = max(1, round(source.duration_interval * FRAME_RATE))
    length = MAX_HEARD_S * FRAME_RATE // grid * grid
    end_frame = start_frame + clip.bucket.num_frames
    clip_end = max(math.ceil(clip.audio_s * FRAME_RATE), clip.num_frames)
    first = max(0, -((length - end_frame) // grid))
    last = min(start_frame // grid, -((length - clip_end) // grid))
    if source.truncation_mode == "random":
        return (first + pick(uniform, last - first + 1)) * grid, length
    return (last if source.truncation_mode == "beginning" else first) * grid, length
