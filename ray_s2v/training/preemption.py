"""Nodes that will be taken away, as spot machines are: Ray hears of it some time before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import ray.train
from ray.train import PreemptionInfo


class Notices:
    """What Ray Train's watcher has heard of the nodes that workers are on."""

    def __init__(self, heard: Callable[[], PreemptionInfo | None] = ray.train.get_preemption_info) -> None:
        self._heard = heard
        self._known: set[str] = set()

    def news(self) -> str:
        """Which workers lose their node and when, of each node once; empty for no news. A collective, the same on all workers."""
        info = self._heard()
        new = set(info.preempted_node_ids) - self._known if info else set()
        if not info or not new:
            return ""
        self._known |= new
        ranks = sorted({rank for node in new for rank in info.preempted_node_to_ranks[node]})
        at = datetime.fromtimestamp(info.deadline_ms / 1e3).astimezone().strftime(" at %H:%M:%S") if info.deadline_ms else ""
        return f"the node of worker{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} will be taken away{at}"
