"""The network under DeepSpeed ZeRO: gradients, the optimizer step, and the state that a checkpoint needs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor

from ray_s2v.config.job import Job
from ray_s2v.model.flow import clip_losses
from ray_s2v.model.lora import adapter_name
from ray_s2v.schema import Batch
from ray_s2v.training.average import Average
from ray_s2v.training.checkpoint import State
from ray_s2v.training.routes import job_routes
from ray_s2v.training.zero_state import gather_state, gathered, restore_moments, set_parameters

# ZeRO-3 leaves smaller tensors whole on every worker, where gathering them would cost more than they take.
PERSISTENT_BELOW = 100_000
FETCHED_AHEAD = 500_000_000  # elements: a whole block and its injector, which are gathered as one


def deepspeed_config(job: Job, num_trainable: int, workers: int) -> dict[str, Any]:
    """The whole of DeepSpeed's configuration, from the job, for so many workers.

    No `bf16` block: that would round the adapter and everything that wan_s2v 6 keeps in float32; the network carries its own
    dtypes. One bucket holds the adapter's gradients, where the default would reserve 2 GB.
    """
    return {
        "train_micro_batch_size_per_gpu": job.training.batch_size,
        "gradient_accumulation_steps": job.training.accumulation(workers),
        "gradient_clipping": job.training.clip_grad_norm,
        "zero_optimization": {
            "stage": job.zero.stage,
            "reduce_bucket_size": num_trainable,
            # Releasing by reuse distance is quadratic in the modules until a billion elements have passed: 13 to 24 s in step 2.
            "stage3_max_reuse_distance": 0,
            # It would replace torch's own linear function by one that rounds before it adds the bias.
            "memory_efficient_linear": False,
            "stage3_param_persistence_threshold": PERSISTENT_BELOW,
            "stage3_prefetch_bucket_size": FETCHED_AHEAD,
            "zero_hpz_partition_size": job.zero.hpz,
            **({"offload_param": {"device": "cpu", "pin_memory": True}} if job.zero.offload == "cpu" else {}),
        },
        "steps_per_print": 2**31,
    }


class Engine:
    """One worker's share of the training; all workers call the same methods in the same order."""

    def __init__(self, model: PeftModel, job: Job, device: torch.device, resumed: State | None, steps_done: int) -> None:
        self.device = device
        self.shift = job.flow.shift
        self.routes = job_routes(job, len(model.base_model.model.blocks))
        self.stage = job.zero.stage
        self.adapter = {adapter_name(name): p for name, p in model.named_parameters() if p.requires_grad}
        if resumed:
            with torch.no_grad():
                for name, parameter in self.adapter.items():
                    parameter.copy_(resumed.adapter[name])
        # A finite sum of all gradients seen since the last step; a tensor hook sees them at every ZeRO stage, before they are reduced.
        self.gradient_sum = torch.zeros((), device=device)
        for parameter in self.adapter.values():
            parameter.register_hook(self._watch)
        optimizer = torch.optim.AdamW(
            list(self.adapter.values()),
            lr=job.training.learning_rate,
            weight_decay=job.training.weight_decay,
            fused=device.type == "cuda",
        )
        config = deepspeed_config(job, sum(p.numel() for p in self.adapter.values()), dist.get_world_size())
        self.deepspeed = _initialized(model, optimizer, config, device)
        self.steps_done = steps_done
        self.average = Average(job.training.ema, (resumed and resumed.average) or self._now()) if job.training.ema else None
        if self.average:
            self.average.to(device if self.stage < 3 else torch.device("cpu"))
        if resumed:
            restore_moments(self.deepspeed, self.adapter, resumed.moments, self.stage, steps_done)

    def _watch(self, gradient: Tensor) -> None:
        self.gradient_sum += gradient.detach().float().sum()

    def forward_backward(self, batch: Batch, scale: float) -> list[float]:
        """Adds the gradients of the sum of a micro-batch's losses, times `scale`; returns the loss of each of its clips."""
        torch.manual_seed(batch.seed)
        losses = clip_losses(self.deepspeed, batch, self.shift, self.routes)
        self.deepspeed.backward(losses.sum() * scale)
        if not self.deepspeed.is_gradient_accumulation_boundary():
            self.deepspeed.step()
        return losses.detach().tolist()

    def gradients_finite(self) -> bool:
        """Whether every gradient since the last step was finite on this worker."""
        return bool(self.gradient_sum.isfinite())

    def step(self, learning_rate: float) -> float:
        """The optimizer step, after all micro-batches; returns the gradient norm before clipping."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = None if self.stage else torch.nn.utils.get_total_norm([p.grad for p in self.adapter.values() if p.grad is not None])
        self.deepspeed.step()
        self.gradient_sum.zero_()
        self.steps_done += 1
        if self.average and self.average.is_due(self.steps_done):
            self.average.take(self._now(), self.steps_done)
        return float(self.deepspeed.get_global_grad_norm() if norm is None else norm)

    def _now(self) -> Mapping[str, Tensor]:
        """What is trained; under ZeRO-3 gathered, which is a collective."""
        return self.adapter_tensors() if self.stage == 3 else self.adapter

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with the average in the place of the weights. A collective under ZeRO-3."""
        assert self.average
        own = self.adapter_tensors()
        set_parameters(self.adapter, self.average.tensors, self.stage)
        try:
            yield
        finally:
            set_parameters(self.adapter, own, self.stage)

    def adapter_tensors(self) -> dict[str, Tensor]:
        """The adapter in float32 on the CPU, on every worker."""
        return gathered(self.adapter, self.stage)

    def state(self) -> State:
        """What a checkpoint holds, on every worker; a collective."""
        average = {name: tensor.cpu().clone() for name, tensor in self.average.tensors.items()} if self.average else None
        return State(self.adapter_tensors(), gather_state(self.deepspeed, self.adapter, self.stage), average)


def _shard(model: PeftModel, config: dict[str, Any]) -> None:
    """Cuts every tensor into the workers' shards, one after the other: none needs room for the whole network on its GPU."""
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    network: Any = model.base_model.model
    if network.blocks[0].unit:
        # The fast form reads a block's weights all at once, where modules would be gathered one after the other.
        set_z3_leaf_modules(model, [type(network.blocks[0]), type(network.audio_injector.injector[0])])


def _initialized(model: PeftModel, optimizer: torch.optim.Optimizer, config: dict[str, Any], device: torch.device) -> Any:
    """DeepSpeed's engine in the process group that is there already."""
    assert dist.is_initialized()
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    if device.type == "cpu":
        # Used only by launchers that set LOCAL_SIZE, and compiled for 40 s at the first call otherwise.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.logger.setLevel("WARNING")
    if config["zero_optimization"]["stage"] == 3:
        _shard(model, config)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    return engine
