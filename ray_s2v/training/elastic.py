"""Ray Train with as many workers as there is room for: what it asks of the cluster, and data for each number of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import ray.data
import ray.train

from ray_s2v.config.job import Training

# Ray counts how many workers a node holds by dividing floats: of nodes of one CPU, ten workers of 0.1 come out as nine.
SIXTY_FOURTH = 1 / 64


def scaling(training: Training) -> ray.train.ScalingConfig:
    workers = training.workers
    share = _countable if workers.is_elastic else float
    return ray.train.ScalingConfig(
        num_workers=(workers.min, workers.max) if workers.is_elastic else workers.max,
        elastic_resize_monitor_interval_s=training.resize_every_s,
        use_gpu=training.worker_gpus > 0,
        resources_per_worker={"CPU": share(training.worker_cpus), "GPU": share(training.worker_gpus)},
        accelerator_type=training.accelerator_type,
    )


def _countable(share: float) -> float:
    """The share rounded down to one that floats count exactly; the smallest for what is less."""
    return max(math.floor(share / SIXTY_FOURTH) * SIXTY_FOURTH, min(share, SIXTY_FOURTH))


def for_any_number(make: Callable[[int], ray.data.Dataset]) -> Any:
    """What Ray Train takes for a dataset, where it depends on the number of workers.

    The controller calls it at every start of the workers, before their number is told; what it returns goes to DataForWorkers.
    """
    return partial(partial, make)


class DataForWorkers(ray.train.DataConfig):
    """Makes what `for_any_number` was given for the workers that there are, and deals its rows out in their order."""

    def __init__(self) -> None:
        super().__init__(execution_options=ray.data.ExecutionOptions(preserve_order=True), enable_shard_locality=False)

    def configure(self, datasets: dict[str, Any], world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, ray.data.DataIterator]]:
        made = {name: make(world_size) for name, make in datasets.items()}
        return super().configure(made, world_size, *args, **kwargs)
