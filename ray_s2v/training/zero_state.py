"""The adapter and Adam's moments out of DeepSpeed and back, at any ZeRO stage and number of workers.

DeepSpeed's own checkpoints cannot change either. What is gathered here is whole tensors under the adapter's names. The setters
below stage 3's and the creation of Adam's state use DeepSpeed's internals, which is why its version is pinned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def gathered(adapter: dict[str, nn.Parameter], stage: int) -> dict[str, Tensor]:
    """Whole copies of the parameters, float32 on the CPU."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(adapter.values()), enabled=stage == 3):
        return {name: parameter.detach().float().cpu().clone() for name, parameter in adapter.items()}


def set_parameters(adapter: dict[str, nn.Parameter], values: Mapping[str, Tensor], stage: int) -> None:
    """Gives the parameters these values, which all workers have. Under stage 3 a collective."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(adapter.values()), modifier_rank=0, enabled=stage == 3), torch.no_grad():
        for name, parameter in adapter.items():
            parameter.copy_(values[name])


def gather_state(engine: Any, adapter: dict[str, nn.Parameter], stage: int) -> dict[str, Tensor]:
    """Adam's moments of every parameter, `<name>.exp_avg` and `<name>.exp_avg_sq`, float32 on the CPU. A collective."""
    from deepspeed.utils import safe_get_full_optimizer_state

    state = {}
    for name, parameter in adapter.items():
        for moment in MOMENTS:
            value = engine.optimizer.state[parameter][moment] if stage == 0 else safe_get_full_optimizer_state(parameter, moment)
            state[f"{name}.{moment}"] = value.detach().float().cpu().clone().view(_shape(parameter))
    return state


def restore_moments(engine: Any, adapter: dict[str, nn.Parameter], moments: dict[str, Tensor], stage: int, steps_done: int) -> None:
    """Gives a fresh engine the moments of `gather_state`, and Adam its step count."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if stage > 0:
        _create_adam_state(engine.optimizer, stage, steps_done)
    for name, parameter in adapter.items():
        values = {moment: moments[f"{name}.{moment}"].to(parameter.device) for moment in MOMENTS}
        if stage == 0:
            engine.optimizer.state[parameter] = {"step": _step(engine.optimizer, parameter, steps_done), **values}
        for moment, value in values.items():
            if stage in (1, 2):
                safe_set_full_optimizer_state(parameter, value, moment)
            elif stage == 3:
                safe_set_local_optimizer_state(parameter, _own_slice(parameter, value), moment)


def _create_adam_state(optimizer: Any, stage: int, steps_done: int) -> None:
    """DeepSpeed creates Adam's state in the first step; its setters fail before."""
    flats = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
    for flat in flats:
        optimizer.optimizer.state[flat] = {
            "step": _step(optimizer.optimizer, flat, steps_done),
            **{moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS},
        }
    if stage in (1, 2):
        optimizer._lazy_init_hp_params_optimizer_state()


def _step(optimizer: torch.optim.Optimizer, parameter: Tensor, steps_done: int) -> Tensor:
    """Adam's count of steps, where its fused and its plain form keep it."""
    return torch.tensor(float(steps_done), device=parameter.device if optimizer.defaults["fused"] else "cpu")


def _own_slice(parameter: Any, value: Tensor) -> Tensor:
    """This worker's part of a whole tensor. DeepSpeed's full setter reads past the end where the workers do not divide it."""
    length = parameter.ds_tensor.numel()
    padded = value.new_zeros(length * dist.get_world_size())
    padded[: value.numel()] = value.flatten()
    return padded[dist.get_rank() * length : (dist.get_rank() + 1) * length]


def _shape(parameter: Any) -> torch.Size:
    return parameter.ds_shape if hasattr(parameter, "ds_shape") else parameter.shape
