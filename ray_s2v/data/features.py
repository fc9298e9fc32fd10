"""What the frozen encoders give for a row of the plan, and the keys under which the store keeps it.

    kind     columns                                    once for each
    video    latents, reference, pose where there is    window of a clip at one size, with one reference frame
    speech   speech                                     sound, or part of it that is heard at once
    text     text                                       caption

A key is a digest of everything that went in: the content of the files, the window, the size, the encoder's weights, the number
type, and the version of the code. So nothing that changes can be taken for what it was, and files may move.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray_s2v.schema import FRAMES_PER_LATENT, HISTORY_LATENTS, LATENT_CHANNELS, LATENT_STRIDE

FeatureKind = Literal["video", "speech", "text"]
KINDS: tuple[FeatureKind, ...] = ("text", "speech", "video")  # `encode` fills the store in this order, the cheapest first
VERSION = 1  # of what is stored; a change that gives other numbers for the same input counts it up

VIDEO_FIELDS = ("video_digest", "pose_digest", "kind", "scaled_width", "scaled_height", "left", "top", "width", "height")
WINDOW_FIELDS = ("start_frame", "num_frames", "reference_frame")


@dataclass(frozen=True)
class Features:
    """Where a run's features come from."""

    store: str  # folder or URI; empty for none
    streams: bool  # whether the encoders run beside training, for what the store lacks
    vae: str  # identity of the encoder's weights
    speech: str
    text: str  # with its tokenizer's
    dtype: Literal["fp16", "fp32"]

    def key(self, kind: FeatureKind, row: Mapping[str, Any]) -> str:
        """The key of a row's features of one kind: 32 hexadecimal digits."""
        if kind == "video":
            facts = [self.vae, self.dtype, *(row[name] for name in VIDEO_FIELDS + WINDOW_FIELDS)]
        elif kind == "text":
            facts = [self.text, row["caption"]]
        else:
            facts = [self.speech, self.dtype, *sound_heard(row)]
        return hashlib.blake2b(json.dumps([VERSION, kind, *facts]).encode(), digest_size=16).hexdigest()


def sound_heard(row: Mapping[str, Any]) -> tuple[str, bool, int, int, int]:
    """What the speech encoder is given for a row: content, whether its clock is the pictures', first frame and frames heard
    (0 for all), and the frames that features are wanted of, from the first heard on. Without sound, zeros for the window alone.
    """
    if not row["audio"]:
        return "", False, 0, 0, row["num_frames"]
    wanted = row["heard_frames"] or row["clip_frames"]
    return row["audio_digest"], row["audio"] == row["video"], row["heard_start"], row["heard_frames"], wanted


def window_in_sound(row: Mapping[str, Any]) -> slice:
    """Which of the frames of `sound_heard` are the row's window."""
    first = row["start_frame"] - row["heard_start"] if row["audio"] else 0
    return slice(first, first + row["num_frames"])


def video_bytes(row: Mapping[str, Any], dtype: str) -> int:
    """Bytes of the latents of a row's window, reference and pose."""
    latents = row["num_frames"] // FRAMES_PER_LATENT
    latents += HISTORY_LATENTS * (row["kind"] == "continuation") + 1 + latents * bool(row["pose"])
    cells = LATENT_CHANNELS * (row["width"] // LATENT_STRIDE) * (row["height"] // LATENT_STRIDE)
    return latents * cells * (2 if dtype == "fp16" else 4)
