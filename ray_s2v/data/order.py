"""Which clips make up which step: a pure function of the clips, the settings, the seed and the epoch.

Without weights an epoch takes every visit of each bucket in a new order; what does not fill a last step of its bucket is left
out. With weights each bucket of each source is an endless row of rounds, a round all its clips in a new order, and an epoch takes
from every row as many as its share says, on from where the epoch before ended.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_s2v.config.source import Source
from ray_s2v.data.dealing import Visits, dealt, split, trimmed
from ray_s2v.data.draws import generator
from ray_s2v.schema import Bucket, Clip

# Multiples of these two, less their whole parts, fill the unit square evenly: over many epochs no share drifts away.
EVEN = (0.7548776662466927, 0.5698402909980532)


class Cell(NamedTuple):
    """The clips that one source has in one bucket."""

    source: str
    clips: NDArray[np.int64]  # their numbers
    times: int  # that each is seen in an epoch without weights
    share: float  # of all visits, by weight; 0 without weights


class Epoch(NamedTuple):
    """The steps of an epoch in their order."""

    continued: NDArray[np.bool_]  # [steps]
    clips: Visits  # [steps, slots], by number


@dataclass(frozen=True, eq=False)
class Order:
    """Every step of a run, as numbers of clips."""

    buckets: dict[Bucket, list[Cell]]
    long: NDArray[np.bool_]  # of each clip, whether it can be a continuation
    weighted: bool
    seed: int
    slots: int  # clips of a step
    continuation: float  # share of steps with motion history

    @property
    def num_visits(self) -> dict[Bucket, float]:
        """Visits of each bucket in an epoch; with weights an average."""
        if self.weighted:
            return {bucket: self._all_visits * sum(cell.share for cell in cells) for bucket, cells in self.buckets.items()}
        return {bucket: sum(len(cell.clips) * cell.times for cell in cells) for bucket, cells in self.buckets.items()}

    @property
    def _all_visits(self) -> int:
        return sum(len(cell.clips) * cell.times for cells in self.buckets.values() for cell in cells)

    @property
    def steps_per_epoch(self) -> int:
        """The same in every epoch. With weights nothing need be left out, and the last step is filled."""
        if self.weighted:
            return -(-self._all_visits // self.slots)
        return sum(int(visits) // self.slots for visits in self.num_visits.values())

    def epoch(self, epoch: int) -> Epoch:
        """A `continuation` share of each bucket's steps has motion history, as far as its clips are long enough."""
        parts = []
        for bucket, visits in (self._by_weight(epoch) if self.weighted else self._all_of_each()).items():
            draw = generator(self.seed, "epoch", epoch, str(bucket))
            steps = len(visits) // self.slots
            visits = trimmed(draw.permutation(visits), steps, self.slots)
            able = self.long[visits]
            # The fraction of a step is drawn, so that over epochs the share is met.
            wanted = math.floor(self.continuation * steps + draw.random())
            continued = min(wanted, int(able.sum()) // self.slots)
            longer, others = split(visits, able, continued * self.slots, continued, steps - continued)
            parts.append(Epoch(np.ones(continued, np.bool_), dealt(longer, continued, self.slots, draw)))
            parts.append(Epoch(np.zeros(steps - continued, np.bool_), dealt(others, steps - continued, self.slots, draw)))
        kinds, clips = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = generator(self.seed, "order", epoch).permutation(len(kinds))
        return Epoch(kinds[order], clips[order])

    def _all_of_each(self) -> dict[Bucket, Visits]:
        return {b: np.concatenate([np.repeat(cell.clips, cell.times) for cell in cells]) for b, cells in self.buckets.items()}

    def _by_weight(self, epoch: int) -> dict[Bucket, Visits]:
        """What an epoch takes from each row of rounds; how much the epochs before took follows from the shares alone."""
        offsets = (np.arange(epoch + 1)[:, None] * EVEN + generator(self.seed, "shares").random(2)) % 1
        all_steps = np.full(epoch + 1, self.steps_per_epoch)
        steps = apportioned(all_steps, [sum(cell.share for cell in cells) for cells in self.buckets.values()], offsets[:, 0])
        taken = {}
        for (bucket, cells), of_bucket in zip(self.buckets.items(), steps.T, strict=True):
            visits = apportioned(of_bucket * self.slots, [cell.share for cell in cells], offsets[:, 1])
            before, now = visits[:-1].sum(axis=0), visits[-1]
            taken[bucket] = np.concatenate([self._of_rounds(bucket, *row) for row in zip(cells, before, now, strict=True)])
        return taken

    def _of_rounds(self, bucket: Bucket, cell: Cell, first: int, count: int) -> Visits:
        size = len(cell.clips)
        rounds = range(first // size, -(-(first + count) // size))
        shuffled = [generator(self.seed, "round", cell.source, str(bucket), int(i)).permutation(cell.clips) for i in rounds]
        return np.concatenate([cell.clips[:0], *shuffled])[first % size :][:count]


def cells_of(clips: Sequence[Clip], sources: Mapping[str, Source]) -> dict[Bucket, list[Cell]]:
    """The clips' numbers by bucket and source, both sorted; `sources` are those of the clips, each by its name."""
    grouped: dict[tuple[Bucket, str], list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        grouped[clip.bucket, clip.source].append(number)
    sizes = Counter(clip.source for clip in clips)
    weights = {name: source.weight or 0.0 for name, source in sources.items()}
    all_weights = math.fsum(weights.values()) or 1.0
    cells: dict[Bucket, list[Cell]] = defaultdict(list)
    for (bucket, name), numbers in sorted(grouped.items()):
        share = weights[name] / all_weights * len(numbers) / sizes[name]
        cells[bucket].append(Cell(name, np.array(numbers), sources[name].repeats + 1, share))
    return dict(cells)


def apportioned(totals: NDArray[np.int64], shares: Sequence[float], offsets: NDArray[np.float64]) -> NDArray[np.int64]:
    """Each total cut into whole parts after the shares: [totals, shares].

    A part is its exact share rounded down or up; which of them are rounded up changes with the offset, in [0, 1), so that over
    evenly spread offsets each part is its exact share on average.
    """
    edges = np.cumsum(shares)
    ends = np.minimum(np.floor(totals[:, None] * (edges / edges[-1]) + offsets[:, None]), totals[:, None])
    return np.diff(ends, axis=1, prepend=0).astype(np.int64)
