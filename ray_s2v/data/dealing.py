"""Visits to clips dealt out to steps, so that none sees a clip twice that need not. Visits are an array of clips' numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Visits = NDArray[np.int64]


def trimmed(visits: Visits, steps: int, slots: int) -> Visits:
    """The first steps * slots visits, leaving out first those of a clip that has more visits than there are steps."""
    earlier, _ = _copies(visits)
    return visits[np.argsort(earlier >= steps, kind="stable")][: steps * slots]


def split(visits: Visits, able: NDArray[np.bool_], count: int, steps: int, other_steps: int) -> tuple[Visits, Visits]:
    """`count` of the visits that are `able`, the first ones, for `steps` steps; and all others, for `other_steps`.

    A clip with more visits than there are steps of one kind has the rest of them in the other kind.
    """
    earlier, copies = _copies(visits)
    must, may = earlier < copies - other_steps, earlier < steps
    order = np.argsort(np.select([~able, must, may], [3, 0, 1], default=2), kind="stable")
    return visits[order[:count]], visits[np.sort(order[count:])]


def dealt(visits: Visits, steps: int, slots: int, draw: np.random.Generator) -> Visits:
    """All visits as [steps, slots], in random company; a clip is in no step twice unless it has more visits than there are steps.

    Like cards sorted by clip and dealt in turns, each turn to all steps in a new order. A clip whose cards fall in two turns is
    dealt in the second one to steps that it did not meet in the first.
    """
    hands = np.empty((steps, slots), np.int64)
    turns = _grouped(visits).reshape(slots, steps)
    order = draw.permutation(steps)
    for turn in range(slots):
        if turn:
            clip = turns[turn, :1]
            before, now = np.count_nonzero(turns[turn - 1] == clip), np.count_nonzero(turns[turn] == clip)
            free = np.ones(steps, bool)
            free[order[steps - before :]] = False
            fresh = draw.permutation(np.flatnonzero(free))
            order = np.concatenate([fresh[:now], draw.permutation(np.concatenate([fresh[now:], np.flatnonzero(~free)]))])
        hands[order, turn] = turns[turn]
    return draw.permuted(hands, axis=1)


def _grouped(visits: Visits) -> Visits:
    """The visits of a clip side by side, the clips in the order of their first visits."""
    _, first, which = np.unique(visits, return_index=True, return_inverse=True)
    return visits[np.argsort(first[which], kind="stable")]


def _copies(visits: Visits) -> tuple[Visits, Visits]:
    """For each visit, how many visits of its clip come before it, and how many there are of it in all."""
    order = np.argsort(visits, kind="stable")
    starts = np.flatnonzero(np.diff(visits[order], prepend=-1))
    counts = np.diff(starts, append=len(visits))
    earlier, copies = np.empty_like(visits), np.empty_like(visits)
    earlier[order] = np.arange(len(visits)) - np.repeat(starts, counts)
    copies[order] = np.repeat(counts, counts)
    return earlier, copies
