"""Spot machines first, and the same on demand where none are to be had: the order in which Ray's autoscaler tries node types.

    RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score    for `ray start --head`, with this file on PYTHONPATH

Ray's own order (2.60, the autoscaler of `ray up`) looks only at how well a machine would be used: of two types with the same machine
it asks for the same one again and again, though none is left. Ray notes what could not be had, here AWS's refusals, and
forgets it after 30 minutes; this order heeds the notes.
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _resource_based_utilization_scorer


def score(
    node_resources: dict[str, float],
    resources: list[dict[str, float]],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple[Any, ...] | None:
    """How good it is to start a machine of this type: of several the highest. None where nothing of what is asked for fits.

    Ray's own judgment comes first; among equals what could be had the last time, then a type whose name ends in -spot.
    """
    used = _resource_based_utilization_scorer(node_resources, resources, node_availability_summary=node_availability_summary)
    if used is None:
        return None
    noted = node_availability_summary.node_availabilities.get(node_type)
    return (*used, noted is None or noted.is_available, node_type.endswith("-spot"))
