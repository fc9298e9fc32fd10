"""A step's rows among workers: worker r of n has the slots r, r + n, r + 2n, ...

Where that does not come out even, rows that only fill up follow the step's own: all workers run as often, as their collectives want,
and a step is the same clips with any number of them. Such a row has no clip; it comes without features, and counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from ray_s2v.data.rows import Row
from ray_s2v.schema import PlanRow


def slots_with_filling(slots: int, workers: int) -> int:
    """The slots of a step as so many workers run it."""
    return math.ceil(slots / workers) * workers


def filled_up(rows: Iterable[PlanRow], slots: int, workers: int) -> Iterator[PlanRow]:
    """The rows of whole steps of `slots`, each step followed by what fills it up."""
    for row in rows:
        yield row
        if row["slot"] == slots - 1:
            for slot in range(slots, slots_with_filling(slots, workers)):
                yield {**row, "slot": slot, "clip_id": ""}


def only_fills(row: PlanRow | Row) -> bool:
    return "clip_id" in row and not row["clip_id"]


def with_features(rows: Iterable[Row]) -> Iterator[Row]:
    """One worker's rows; one that only fills up is the worker's row before it again, as if that could not be read."""
    before: Row = {}
    for row in rows:
        before = {**before, "slot": row["slot"], "clip_id": "", "video_error": "only fills up"} if only_fills(row) else row
        yield before
