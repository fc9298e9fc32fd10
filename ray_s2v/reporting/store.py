"""The size of the feature store, before and after it is filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_s2v.data.encode import Wanted
from ray_s2v.data.features import KINDS, FeatureKind, Features, sound_heard, video_bytes
from ray_s2v.encoders.identity import numbers_in_config

THINGS = {"text": "captions", "speech": "sounds", "video": "windows"}
BYTES_A_TOKEN = 4  # of UTF-8 in a caption, about


def size(num_bytes: float) -> str:
    """Bytes in the largest unit that leaves a number of at least one: 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:  # what is shown as 1e+03
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def expected_bytes(kind: FeatureKind, row: Mapping[str, Any], features: Features, speech_place: str, text_place: str) -> float:
    """What a row's features will take in the store: for text about right, for the others exact but for what a file has beside its
    arrays, 1 to 2 kB, of two minutes of sound 13 kB.
    """
    if kind == "video":
        return video_bytes(row, features.dtype)
    if kind == "text":
        (width,) = numbers_in_config(text_place, ("d_model",))
        return (len(row["caption"].encode()) / BYTES_A_TOKEN + 1) * width * 2
    layers, width = numbers_in_config(speech_place, ("num_hidden_layers", "hidden_size"))
    *_, num_frames = sound_heard(row)
    is_half = features.dtype == "fp16" or not row["audio"]  # as zeros are in any case
    return num_frames * (layers + 1) * width * (2 if is_half else 4)


def store_table(wanted: Wanted, features: Features, speech_place: str, text_place: str) -> str:
    """What a run wants of the store: how much is there, and how much filling it would add."""
    lines = [f"store {features.store}, {features.dtype}:"]
    total = 0.0
    for kind in KINDS:
        missing = wanted.missing(kind)
        there = wanted.there[kind]
        more = sum(expected_bytes(kind, row, features, speech_place, text_place) for row in missing.values())
        total += more
        lines.append(
            f"  {kind:<7} {len(wanted.rows[kind]):>8} {THINGS[kind]:<9} {len(there):>8} there, {size(sum(there.values())):>8}"
            f"   {len(missing):>8} missing, {size(more):>8}"
        )
    if total:
        lines.append(f"  `python -m ray_s2v.encode` would add {size(total)}")
    return "\n".join(lines)
