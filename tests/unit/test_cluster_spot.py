"""Spot machines first, and what comes where there are none."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary, NodeProviderAvailabilityTracker
from ray.autoscaler.node_launch_exception import NodeLaunchException

from tests.cluster_files import (
    CLUSTER,
    CLUSTERS,
    LAUNCHED,
    autoscaling,
    demands,
    grown,
    job_of,
    read,
)


def spot_first() -> Any:
    spec = importlib.util.spec_from_file_location("spot_first", CLUSTER / "spot_first.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.score


def refused(*names: str, seconds_ago: int = 0, now: float = 1e6) -> NodeAvailabilitySummary:
    tracker = NodeProviderAvailabilityTracker(timer=lambda: now)
    for name in names:
        error = NodeLaunchException("InsufficientInstanceCapacity", "no capacity", None)
        tracker.update_node_availability(name, int(now) - seconds_ago, error)
    return tracker.summary()


def test_spot_first_on_demand_where_there_are_none() -> None:
    config = autoscaling(LAUNCHED["l40s"])
    workers, actors = demands(job_of(LAUNCHED["l40s"]), most=False)
    start = partial(grown, config, score=spot_first())
    assert start(workers) == {"train-spot": 8}
    assert start(workers, noted=refused("train-spot")) == {"train": 8}
    assert start(actors, noted=refused("train-spot")) == {"encode-spot": 2}
    assert start(actors, noted=refused("train-spot", "encode-spot")) == {"encode": 2}
    assert start(workers, noted=refused("train-spot", seconds_ago=1900)) == {"train-spot": 8}, "noted for half an hour"
    assert start([{"CPU": 1}], noted=refused("decode", "decode-spot")) == {"decode-spot": 1}, "neither could be had: still no GPU"


def test_rays_own_order_asks_for_what_is_not_there() -> None:
    """Why there is spot_first.py. When this fails, it may go."""
    config = autoscaling(LAUNCHED["l40s"])
    workers, _ = demands(job_of(LAUNCHED["l40s"]), most=False)
    (chosen,) = grown(config, workers)
    assert set(grown(config, workers, noted=refused(chosen))) == {chosen}


def test_the_head_on_aws_uses_it_and_has_it() -> None:
    config = read(LAUNCHED["l40s"])
    start = config["head_start_ray_commands"][-1]
    assert "RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score PYTHONPATH=$HOME/ray_s2v " in start
    assert config["file_mounts"]["/home/ubuntu/ray_s2v/spot_first.py"] == "cluster/spot_first.py"


def test_on_aks_spot_pools_come_first_by_priority() -> None:
    types = autoscaling(CLUSTERS["mi300x"])["available_node_types"]
    spot = {name.removesuffix("-spot"): kind for name, kind in types.items() if name.endswith("-spot")}
    assert spot.keys() == {"decode", "encode", "train"}
    for name, kind in spot.items():
        assert kind["priority"] > types[name].get("priority", 0)
        assert kind["resources"] == types[name]["resources"], "or Ray's judgment would come before priority"
