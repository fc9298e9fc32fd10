"""How many trials a cluster has room for side by side.

Ray Train's workers are not among what a trial reserves with Ray Tune: trials that are too many would take each other's room, and wait
for one another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import count, takewhile

from ray_s2v.cluster.capacity import Asked, check, holds
from ray_s2v.cluster.supply import Node, Supply
from ray_s2v.cluster.waiting import lacks
from ray_s2v.config.sweep import Sweep
from ray_s2v.schema import ConfigError

# Settings that change neither which windows a run sees nor in which words.
_LEAVES_ROWS = re.compile(r"(lora|tread|zero|model|offload|checkpoint)\..+|training\.(?!(global_batch|continuation)$).+")


def share_rows(sweep: Sweep) -> bool:
    """Whether all trials want the same features, so that none needs encoders where the store has those of one."""
    return all(_LEAVES_ROWS.fullmatch(key) for key in sweep.space)


def trials_at_once(asked: Sequence[Asked], there: Supply, most: int) -> int:
    """The largest number of trials up to `most` that have room on the nodes that are up and those that may be added.

    asked: what one trial runs. Raises ConfigError, in words, where not even one has room.
    """
    check(asked, there)
    return max([1, *takewhile(lambda number: number <= most and _fit(_times(asked, number), there), count(1))])


def _times(asked: Sequence[Asked], trials: int) -> list[Asked]:
    return [one._replace(number=one.number * trials) for one in asked]


def _fit(asked: Sequence[Asked], there: Supply) -> bool:
    try:
        check(asked, there)
    except ConfigError:
        return False
    nodes, added = list(there.up), Counter[str]()
    while lacking := lacks(asked, nodes):
        one = lacking[0][0]
        addable = there.addable() if sum(added.values()) < there.growth.most - sum(1 for node in there.up if node.type) else ()
        able = [kind for kind, number in addable if added[kind.name] < number and holds(kind.resources, one)]
        if not able:
            return False
        best = max(able, key=lambda kind: holds(kind.resources, one))
        added[best.name] += 1
        nodes.append(Node(best.name, best.resources))
    return True
