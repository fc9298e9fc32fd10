"""A source read as a run reads it: listed, examined as Ray's tasks do, judged, kept in the store, and each usable clip decoded."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_s2v.data.buckets import framed
from ray_s2v.data.decode import decoded_sound, decoded_video
from ray_s2v.data.discover import _examine_batch, _judged, _Listing
from ray_s2v.data.found import Rejected, shown
from ray_s2v.data.manifest import found_table, rows_of
from ray_s2v.schema import Clip, DataError
from tests.clips import source, write_clip
from tests.malformed.entry import Outcome

GOOD = "good.mp4"


@cache
def clip_bytes(seed: int = 0, **options: Any) -> bytes:
    """A file of a second and a half."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.mp4"
        write_clip(path, seed=seed, **options)
        return path.read_bytes()


def put_good(folder: Path) -> None:
    """A clip that nothing is wrong with, which must be taken whatever lies beside it."""
    (folder / GOOD).write_bytes(clip_bytes(seed=99))
    (folder / "good.txt").write_text("a good clip")


def read_source(given: Path, at: str = "", **options: Any) -> Outcome:
    """What comes of the clips of a folder, or of the file `at` in it, that are not the good one."""
    settings = source(given / at, **options)
    store = str(given.parent / "own")
    listing = _Listing.of(settings, store, lambda _: None)
    table = found_table(listing.found)
    examined = _examine_batch(table.append_column("source", pa.array([0] * len(table), pa.int64())))
    unread = []
    for (found, facts), problem in zip(rows_of(examined), examined["problem"].to_pylist(), strict=True):
        listing.facts[found.name] = facts
        if problem:
            unread.append(Rejected(shown(found.video.place), problem))
    if unread:
        raise DataError(f"{len(unread)} clips could not be read: {unread[0].path}: {unread[0].reason}")
    listing.is_saved = False
    listing.save(store)
    again = _Listing.of(settings, store, lambda _: None)
    assert again.facts == listing.facts, "facts change in the store"
    clips, rejected, _ = _judged(listing)
    others = [clip for clip in clips if not clip.clip_id.endswith(GOOD)]
    assert len(others) < len(clips) or not (given / GOOD).exists() or at, "the good clip is lost"
    if rejected:
        return Outcome("rejected", "; ".join(f"{Path(found.path).name}: {found.reason}" for found in rejected[:3]))
    if others:
        return Outcome("taken", "; ".join(_decoded(clip, settings) for clip in others[:2]))
    return Outcome("passed over", "it is no clip")


def _decoded(clip: Clip, settings: Any) -> str:
    """What a run would see of the clip."""
    bucket, width, height = framed(clip.scaled_width, clip.scaled_height, clip.num_frames, settings, clip.clip_id)
    row = {
        "video": clip.video.place, "audio": clip.audio.place if clip.audio else "",
        "video_digest": clip.video.digest, "audio_digest": clip.audio.digest if clip.audio else "", "pose": clip.pose.place if clip.pose else "",
        "kind": "first", "scaled_width": width, "scaled_height": height, "left": 0, "top": 0, "width": bucket.width,
        "height": bucket.height, "clip_frames": clip.num_frames, "start_frame": 0, "num_frames": bucket.num_frames,
        "reference_frame": clip.num_frames - 1, "heard_start": 0, "heard_frames": 0, "drop_audio": False, "audio_s": clip.audio_s,
    }  # fmt: skip
    errors = [decoded_video(row)["video_error"], decoded_sound(row)["speech_error"]]
    return f"{clip.num_frames} frames of {clip.scaled_width}x{clip.scaled_height}, {clip.audio_s:.1f} s of sound" + "".join(
        f", later: {error}" for error in errors if error
    )
