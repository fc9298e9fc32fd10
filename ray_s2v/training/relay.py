"""What happens elsewhere in the cluster, told on the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def open_relay() -> Queue:
    """A queue on this machine: wherever else it were, that machine's end would be the driver's."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def pass_on(records: Queue, tell: Callable[[dict[str, Any]], None], wait_s: float) -> None:
    """Tells the records that are there, and one more if it comes within `wait_s`."""
    try:
        tell(records.get(block=wait_s > 0, timeout=wait_s))
        while True:
            tell(records.get(block=False))
    except Empty:
        return
