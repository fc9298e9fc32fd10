"""Which AMD GPUs a training worker sees: as with NVIDIA's, those of all workers of its machine."""

from __future__ import annotations

import os
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class TorchConfigForAmd(TorchConfig):
    """Ray Train's own, that is right on AMD's cards too; on others, and on none, it changes nothing.

    Ray shows each worker its own AMD GPU alone (HIP_VISIBLE_DEVICES). Ray Train then names the GPUs of all workers of the machine in
    CUDA_VISIBLE_DEVICES and takes the worker's by its place there; but HIP goes by HIP_VISIBLE_DEVICES where both are set, so that
    every second worker's GPU would be one that it does not see. (Ray 2.60.)
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _SharingBackend


class _SharingBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_share)  # before the process group, for which a worker looks at its GPUs for the first time
        super().on_start(worker_group, backend_config)


def _share() -> None:
    if "HIP_VISIBLE_DEVICES" in os.environ and "CUDA_VISIBLE_DEVICES" in os.environ:
        os.environ["HIP_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
