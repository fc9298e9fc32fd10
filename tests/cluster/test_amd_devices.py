"""AMD's GPUs in Ray Train, as far as that can be seen without one: variables that Ray would set, set by hand, and what comes of them."""

import os

import pytest
import ray
import ray.train
import ray.train.torch
from ray.train.torch import TorchConfig, TorchTrainer

from ray_s2v.training.amd_devices import TorchConfigForAmd

pytestmark = pytest.mark.timeout(120)


def seen(config: TorchConfig, folder: str) -> list[tuple[str, str]]:
    """HIP_VISIBLE_DEVICES and the device that Ray Train takes, of each of three workers; Ray counts GPUs that are not there."""

    @ray.remote(num_cpus=0)
    class Told:
        def __init__(self) -> None:
            self.by_rank: dict[int, tuple[str, str]] = {}

        def tell(self, rank: int, *what: str) -> None:
            self.by_rank[rank] = what

        def all(self) -> list[tuple[str, str]]:
            return [what for _, what in sorted(self.by_rank.items())]

    told = Told.remote()

    def work() -> None:
        rank = ray.train.get_context().get_world_rank()
        device = str(ray.train.torch.get_device())
        ray.get(told.tell.remote(rank, os.environ["HIP_VISIBLE_DEVICES"], device))

    TorchTrainer(
        work,
        scaling_config=ray.train.ScalingConfig(num_workers=3, use_gpu=True, resources_per_worker={"CPU": 0.1, "GPU": 1}),
        torch_config=config,
        run_config=ray.train.RunConfig(storage_path=folder, worker_runtime_env={"env_vars": {"HIP_VISIBLE_DEVICES": "2"}}),
    ).fit()
    return ray.get(told.all.remote())


def test_workers_see_each_others_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    with ray.init(address="local", num_cpus=3, num_gpus=4, log_to_driver=False):
        devices = ["cuda:0", "cuda:1", "cuda:2"]
        # What is mended: one GPU is seen, and the third is taken.
        assert seen(TorchConfig(backend="gloo"), str(tmp_path / "a")) == [("2", device) for device in devices]
        assert seen(TorchConfigForAmd(backend="gloo"), str(tmp_path / "b")) == [("0,1,2", device) for device in devices]
