"""What one worker builds and measures: the job's network under its engine, and its steps of each kind of batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from ray_s2v.benchmark.measure import Steps, timed_steps
from ray_s2v.benchmark.random_weights import RandomWeights
from ray_s2v.benchmark.recording import recorded_step
from ray_s2v.benchmark.synthetic import bucket_of, synthetic_batch
from ray_s2v.config.job import Job
from ray_s2v.schema import Batch
from ray_s2v.training.engine import Engine
from ray_s2v.training.network import job_lora, network_for_training


class OneWorker:
    """All workers call the same methods in the same order."""

    def __init__(self, index: int, job: Job, device: torch.device, say: Callable[[str], None]) -> None:
        """Builds. Raises ConfigError, or what torch raises where memory runs out."""
        self._index, self._training, self._say = index, job.training, say
        self._device = device
        self.notes: list[str] = []  # what network_for_training said
        self.bucket, weights = bucket_of(job), RandomWeights(job.model.path, device, shared_on_host=device.type != "cpu")
        self.config = weights.outline().config
        # A step is one micro-batch of each worker here, whatever the job accumulates.
        one_turn = self._training.model_copy(update={"global_batch": self._training.workers.max * self._training.batch_size})
        job = job.model_copy(update={"training": one_turn})
        started = time.monotonic()
        model = network_for_training(job, job_lora(job), weights, device, self.bucket, self._note)
        unit = model.base_model.model.blocks[0].unit
        self.attention: str | None = unit.constants.kernel if unit else None
        self._engine = Engine(model, job, device, None, 0)
        self.build_s = time.monotonic() - started

    def timed(self, kind: str, count: int) -> Steps:
        """`count` measured steps of a kind of batch. Raises RunStopped."""
        return timed_steps(
            self._engine, self._batch(kind), self._training.learning_rate, count, lambda text: self._say(f"{kind} clips: {text}")
        )

    def recorded(self, kind: str, folder: Path) -> dict[str, float]:
        """The gpu_times of one step more, whose trace is written into the folder. Raises RunStopped."""
        file = folder / f"{kind}.{self._index}.json.gz"
        found = recorded_step(self._engine, self._batch(kind), self._training.learning_rate, file)
        self._say(f"{kind} clips: a step under the profiler: {file}{'' if found else ', which shows no GPU'}")
        return found

    def _batch(self, kind: str) -> Batch:
        return synthetic_batch(self.config, self.bucket, self._training.batch_size, kind == "continuation", self._index, self._device)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._say(text)
