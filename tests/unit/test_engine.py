"""DeepSpeed's configuration says what the job says."""

from ray_s2v.config.job import Job, Zero
from ray_s2v.training.engine import deepspeed_config
from tests.spawn.zero_runs import tiny_job


def of(**zero: object) -> dict[str, object]:
    job: Job = tiny_job(3, 2).model_copy(update={"zero": Zero.model_validate({"stage": 3, **zero})})
    return deepspeed_config(job, 100, 2)["zero_optimization"]


def test_shards_in_host_memory() -> None:
    assert of(offload="cpu")["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert "offload_param" not in of()


def test_second_shards_in_a_machine() -> None:
    assert of(hpz=2)["zero_hpz_partition_size"] == 2
    assert of()["zero_hpz_partition_size"] == 1
