"""The Ray task that makes the videos of one checkpoint, seen from the driver."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError
from ray.util.queue import Queue

from ray_s2v.config.job import Job
from ray_s2v.schema import RunStopped
from ray_s2v.training.failures import first_cause
from ray_s2v.training.relay import open_relay, pass_on

DEATHS = {
    WorkerCrashedError: "the process that made it died",
    OutOfMemoryError: "the machine ran out of memory, and Ray ended the process that made it",
    NodeDiedError: "the machine that made it was lost",
}


class Making:
    """Waits for the room that the job's `validation` reserves, then makes `home/NAME.mp4` of every scene from `home/adapters`."""

    def __init__(self, job: Job, home: Path) -> None:
        assert job.validation
        settings = job.validation
        self.home, self.word = home, ""
        self.previews: list[tuple[str, Path]] = []
        kind = {"accelerator_type": settings.accelerator_type} if settings.accelerator_type else {}
        task = _make.options(num_cpus=settings.cpus, num_gpus=settings.gpus, **kind)
        self.task = task.remote(job, home, _words())

    def is_over(self) -> bool:
        return bool(ray.wait([self.task], timeout=0)[0])

    def failed(self) -> dict[str, str]:
        """When it is over: why some videos could not be made, by the scene's name. Raises RunStopped where it died before its end."""
        try:
            return ray.get(self.task)
        except RayError as error:
            death = next((words for kind, words in DEATHS.items() if isinstance(error, kind)), "")
            raise RunStopped(death or first_cause(error)) from error

    def doing(self) -> str:
        """What it said last; empty before it has begun."""
        pass_on(_words(), self._hear, wait_s=0)
        return self.word

    def new_previews(self) -> list[tuple[str, Path]]:
        """The scene and the file of each preview since the last call."""
        pass_on(_words(), self._hear, wait_s=0)
        new, self.previews = self.previews, []
        return new

    def end(self) -> None:
        """Ends it at once."""
        ray.cancel(self.task, force=True)

    def _hear(self, record: dict[str, Any]) -> None:
        if record["home"] != self.home:  # one that was ended
            return
        if "preview" in record:
            self.previews.append(record["preview"])
        else:
            self.word = record["doing"]


@cache
def _words() -> Queue:
    """What tasks say; opened for the first of them."""
    return open_relay()


@ray.remote(max_retries=0, max_calls=1)  # one that died may die again; and none leaves memory taken behind
def _make(job: Job, home: Path, words: Queue) -> dict[str, str]:
    # Imported here because the driver imports this module too, and needs no sampler.
    from ray_s2v.validation.task import make_all

    def say(**record: Any) -> None:
        words.actor.put_nowait.remote({"home": home, **record})

    return make_all(job, home / "adapters", home, lambda text: say(doing=text), lambda scene, file: say(preview=(scene, file)))
