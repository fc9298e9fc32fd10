"""An encoder's actors are as many, and where, as its settings say."""

import json
import os
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray
import ray.data

from ray_s2v.config.job import Encoder
from ray_s2v.data.rows import Row
from ray_s2v.data.stages import Stage
from ray_s2v.data.stream import each, encode

NUM_ROWS = 40


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two GPUs of one kind, as Ray counts them; nothing computes on them."""
    resources = {"accelerator_type:L40S": 1}
    ray.init(address="local", num_cpus=4, num_gpus=2, resources=resources, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def seen(**settings: object) -> list[dict[str, float]]:
    """What each actor that encoded something was given, by resource."""

    class Tell(Stage):
        wants = "words"

        def load(self, path: str) -> None:  # type: ignore[override]
            self.given = json.dumps({"process": os.getpid(), **ray.get_runtime_context().get_assigned_resources()})

        def encoded(self, row: Row) -> Row:
            import time

            time.sleep(0.1)  # long enough for the others to start
            return {"given": self.given}

    def waiting(table: pa.Table) -> pa.Table:
        return table.append_column("words", pa.array(["x"]))

    rows = each(ray.data.from_items([{"number": number} for number in range(NUM_ROWS)]), waiting, num_cpus=0.1)
    told = encode(rows, Tell, Encoder.model_validate({"path": "any", "cpus": 0.1, **settings}), "fp16", path="any").take_all()
    assert len(told) == NUM_ROWS
    return [json.loads(text) for text in sorted({row["given"] for row in told})]


def test_a_number_of_actors_is_that_many() -> None:
    actors = seen(actors=3)
    assert len(actors) == 3
    assert all(actor["CPU"] == 0.1 and "GPU" not in actor for actor in actors)


def test_actors_take_their_share_of_a_gpu_of_their_kind() -> None:
    (actor,) = seen(actors=1, gpus=0.5, accelerator_type="L40S")
    assert actor["GPU"] == 0.5
    assert actor["accelerator_type:L40S"] > 0


def test_a_pool_grows_up_to_its_most() -> None:
    assert 1 < len(seen(actors={"min": 1, "max": 3})) <= 3
