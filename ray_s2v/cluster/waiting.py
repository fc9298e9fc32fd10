"""Nodes that a job waits for."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property

from ray_s2v.cluster.capacity import NEARLY, TYPE, Asked, check, counted, described_type, holds
from ray_s2v.cluster.supply import Growth, Node, Supply, growth, supply

LOOK_EVERY_S = 1.0


class Waiting:
    """Says what a job is waiting for, whenever that changes."""

    def __init__(self, asked: Sequence[Asked], note: Callable[[str], None], after_s: float = 0.0) -> None:
        """after_s: what is done by then waits for nothing."""
        self.asked, self.note = list(asked), note
        self.due = time.monotonic() + after_s
        self.said = ""
        self.had_all = False

    @cached_property
    def _growth(self) -> Growth:
        return growth()

    def look(self) -> None:
        """To be called again and again. Raises as `see` does."""
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + LOOK_EVERY_S
            self.see(supply(self._growth))

    def see(self, there: Supply) -> None:
        """Says what is waited for in this cluster. Raises ConfigError where all that can come is up and it is still too little."""
        lacking = lacks(self.asked, there.up)
        self.had_all |= not lacking
        if not self.had_all:
            check(self.asked, there)
        if (line := waits_for(lacking, there)) != self.said:
            self.note(line or "all nodes are up")
            self.said = line

    def only(self, asked: Sequence[Asked]) -> None:
        """From now on, these alone are waited for."""
        self.asked = list(asked)


def waits_for(lacking: Sequence[tuple[Asked, int]], there: Supply) -> str:
    """The types of nodes that are waited for, and for what; empty for nothing."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for one, number in lacking:
        able = (kind.name for kind, _ in there.addable() if not kind.resources or holds(kind.resources, one))
        groups[tuple(able)].append(counted(number, one.name))
    alone = groups.pop((), [])
    said = {kind.name: described_type(kind, there) for kind in there.growth.types}
    waited = [f"{' or '.join(said.pop(name, f'{name} nodes') for name in able)} for {', '.join(things)}" for able, things in groups.items()]
    parts = [f"waiting for {'; '.join(waited)}"] if waited else []
    return "; ".join([*parts, f"no room beside the rest, and no node to add, for {', '.join(alone)}"] if alone else parts)


def lacks(asked: Sequence[Asked], up: Sequence[Node]) -> list[tuple[Asked, int]]:
    """What has no room on the nodes that are up beside the rest, and how many of it. The largest choose first, the fullest nodes."""
    free = [_Free(node) for node in up]
    short = []
    for one in sorted(asked, key=lambda one: (one.kind is not None, one.gpus, one.cpus), reverse=True):
        number = one.number
        while number and (places := [node for node in free if node.fits(one)]):
            min(places, key=lambda node: (sum(node.gpus), node.cpus)).take(one)
            number -= 1
        if number:
            short.append((one, number))
    return sorted(short, key=lambda lacking: asked.index(lacking[0]))


class _Free:
    """What of a node is not given away yet."""

    def __init__(self, node: Node) -> None:
        self.resources = node.resources
        self.cpus = node.resources.get("CPU", 0)
        self.gpus = [1.0] * int(node.resources.get("GPU", 0))

    def fits(self, one: Asked) -> bool:
        of_kind = not one.kind or TYPE + one.kind in self.resources
        return of_kind and self.cpus >= one.cpus - NEARLY and (not one.gpus or max(self.gpus, default=0) >= one.gpus - NEARLY)

    def take(self, one: Asked) -> None:
        self.cpus -= one.cpus
        if one.gpus:
            at = min((rest, index) for index, rest in enumerate(self.gpus) if rest >= one.gpus - NEARLY)[1]
            self.gpus[at] -= one.gpus
