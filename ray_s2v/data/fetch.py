"""A row of the plan to its features, from the store, or to the pictures and sound of which encoders make them."""

from __future__ import annotations

import numpy as np

from ray_s2v.data.decode import decoded_sound, decoded_video
from ray_s2v.data.features import FeatureKind, Features, window_in_sound
from ray_s2v.data.rows import Row
from ray_s2v.data.store import load
from ray_s2v.schema import DataError

SOUND_CHUNK = 32  # frames of sound features that are stored, and read, as one


def fetched(row: Row, features: Features) -> Row:
    """The row with what the store holds of `latents`, `reference`, `pose`, `speech` and `text`, and for the encoders, where it does
    not, `pixels`, `waveform` and `words`. With `refusal` instead where something is missing and no encoders run.
    """
    found: Row = {}
    try:
        for kind in ("video", "speech", "text"):
            found |= _stored(kind, row, features) if features.store else {}
    except DataError as error:
        return refused(row, str(error))
    missing = [column for column in ("latents", "speech", "text") if column not in found]
    if missing and not features.streams:
        return refused(row, f"{features.store} no longer holds the {' and '.join(missing)} of {row['clip_id']}")
    if "latents" in missing:
        found |= decoded_video(row)
    if "speech" in missing:
        found |= decoded_sound(row)
    if "text" in missing:
        found["words"] = row["caption"]
    return {**row, **found}


def refused(row: Row, reason: str) -> Row:
    """What goes to the workers in a row's place when a mistake of the user's comes to light."""
    return {"step": row["step"], "slot": row["slot"], "refusal": reason}


def _stored(kind: FeatureKind, row: Row, features: Features) -> Row:
    key = features.key(kind, row)
    if kind != "speech":
        entry = load(features.store, kind, key)
        return entry[0] if entry else {}
    window = window_in_sound(row)
    chunks = slice(window.start // SOUND_CHUNK, -(-window.stop // SOUND_CHUNK))
    entry = load(features.store, kind, key, chunks)
    if not entry:
        return {}
    joined = np.concatenate([chunk["speech"] for chunk in entry])
    first = window.start - chunks.start * SOUND_CHUNK
    return {"speech": joined[first : first + row["num_frames"]], "speech_error": entry[0]["speech_error"]}


def sound_chunks(speech: np.ndarray, error: str) -> list[Row]:
    """The rows as which sound features [frames, layers, audio_dim] are stored."""
    return [{"speech": speech[first : first + SOUND_CHUNK], "speech_error": error} for first in range(0, len(speech), SOUND_CHUNK)]
