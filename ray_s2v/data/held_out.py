"""Rows of the clips that are held out: the same in every run, whatever it trains on, so that their loss can be compared.

A clip is shown as its source says; what that leaves to chance is drawn from the clip's id and the kind alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ray_s2v.config.source import Source
from ray_s2v.data.draws import generator
from ray_s2v.data.plan_row import plan_row
from ray_s2v.data.window import can_continue, window_of
from ray_s2v.schema import Bucket, Clip, Kind, PlanRow


def held_out_rows(clips: Iterable[Clip], sources: Iterable[Source], most: int) -> list[PlanRow]:
    """A row of each clip as a first clip, and one as a continuation where it is long enough; none where there are no clips.

    Of more than `most` clips those whose ids have the lowest digests are taken, so that clips that come or go change little. Rows of
    one bucket and kind stand together. Text and sound are never dropped; a row's slot is its place in the list, of step 0.
    """
    named = {source.called(): source for source in sources if source.is_eval}
    chosen = sorted(clips, key=lambda clip: _digest(clip.clip_id))[:most]
    kinds: tuple[Kind, ...] = ("first", "continuation")
    shown = [(clip, kind) for kind in kinds for clip in chosen if kind == "first" or can_continue(clip)]
    shown.sort(key=lambda one: (one[0].bucket, kinds.index(one[1])))
    return [_row(slot, clip, kind, named[clip.source]) for slot, (clip, kind) in enumerate(shown)]


def shared_out(rows: Sequence[PlanRow], workers: int) -> list[PlanRow]:
    """The rows with some of them repeated, so that worker r of n, which has the slots r, r + n, ..., meets the buckets and kinds in the
    same order as all others, and as many of each. A row and its repetitions differ in their slots alone.
    """
    padded = [row for _, group in groupby(rows, _shape) for row in _filled(list(group), workers)]
    return [{**row, "slot": slot} for slot, row in enumerate(padded)]


def _filled(group: list[PlanRow], workers: int) -> Iterator[PlanRow]:
    for place in range(-(-len(group) // workers) * workers):
        yield group[place % len(group)]


def _shape(row: PlanRow) -> tuple[Bucket, Kind]:
    return Bucket(row["width"], row["height"], row["num_frames"]), row["kind"]


def _digest(clip_id: str) -> bytes:
    return hashlib.blake2b(clip_id.encode(), digest_size=16).digest()


def _row(slot: int, clip: Clip, kind: Kind, source: Source) -> PlanRow:
    draw = generator("held out", clip.clip_id, kind)
    noise_seed = int(draw.integers(2**63))
    window = window_of(clip, source, kind, draw)
    noise_level = 0.5  # of no use: every row is seen at the same levels
    return plan_row(0, slot, clip, kind, window, clip.captions[0], drop_audio=False, noise_level=noise_level, noise_seed=noise_seed)
