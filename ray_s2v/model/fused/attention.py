"""Attention with its log-sum-exp kept, and its pullback, by the kernels that torch has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ray_s2v.ranks import everyone
from ray_s2v.schema import ConfigError

Kernel = Literal["cudnn", "flash", "efficient", "cpu"]
TRIAL_TOKENS = 4096
aten = torch.ops.aten


def attention(query: Tensor, key: Tensor, value: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """softmax(q k / sqrt(head_dim)) v, [batch, tokens, heads, head_dim] like the query, and the log-sum-exp of its rows.

    key, value: [batch, other tokens, heads, head_dim].
    """
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    match kernel:
        case "cudnn":
            out, lse = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        case "flash":
            out, lse = aten._scaled_dot_product_flash_attention(q, k, v)[:2]
        case "efficient":
            out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
        case "cpu":
            out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return out.transpose(1, 2), lse


def attention_pullback(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, kernel: Kernel
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value from that of `attention`'s output."""
    g, q, k, v, o = (tensor.transpose(1, 2) for tensor in (grad, query, key, value, out))
    lengths = (q.shape[2], k.shape[2])
    # State of a dropout that there is none of.
    seed = torch.zeros((), dtype=torch.int64, device=q.device) if kernel != "cpu" else None
    match kernel:
        case "cudnn":
            grads = aten._scaled_dot_product_cudnn_attention_backward(
                g, q, k, v, o, lse, seed, seed, None, None, None, *lengths, 0.0, False
            )
        case "flash":
            # AMD's build keeps its two numbers apart.
            state = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
            grads = aten._scaled_dot_product_flash_attention_backward(
                g, q, k, v, o, lse, None, None, *lengths, 0.0, False, *((seed, seed) if torch.version.hip else state)
            )
        case "efficient":
            grads = aten._scaled_dot_product_efficient_attention_backward(
                g, q, k, v, None, o, lse, seed, seed, 0.0, [True, True, True, False]
            )[:3]
        case "cpu":
            grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, o, lse, 0.0, False)
    return tuple(tensor.transpose(1, 2) for tensor in grads)


def kernels(setting: Literal["auto", "cudnn", "flash", "sdpa"], on_amd: bool) -> tuple[Kernel, ...]:
    """Those that model.attention lets a GPU choose from."""
    of_all: tuple[Kernel, ...] = ("flash", "efficient")
    choices: dict[str, tuple[Kernel, ...]] = {
        "auto": of_all if on_amd else ("cudnn", *of_all),
        "cudnn": ("cudnn",),  # NVIDIA's
        "flash": ("flash",),
        "sdpa": ("efficient",),
    }
    return choices[setting]


def fastest(device: torch.device, dtype: torch.dtype, head_dim: int, candidates: Sequence[Kernel]) -> Kernel:
    """The kernel that takes least time forward and back on the slowest rank's device, of those that run on all of them."""
    if device.type == "cpu":
        return "cpu"
    shape = (1, TRIAL_TOKENS, 8, head_dim)
    q, k, v, grad = (torch.randn(shape, device=device, dtype=dtype) for _ in range(4))
    own: dict[Kernel, float] = {}
    refusals = []
    for kernel in candidates:
        try:
            own[kernel] = min(_trial_ms(q, k, v, grad, kernel) for _ in range(3))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # how torch says that a kernel is not for this card
            refusals.append(f"{kernel}: {str(error).splitlines()[0]}")
    each_rank = everyone(own)
    on_all = [kernel for kernel in candidates if all(kernel in times for times in each_rank)]
    if not on_all:
        raise ConfigError(f"model.attention: no kernel runs on {torch.cuda.get_device_name(device)}: {'; '.join(refusals)}")
    return min(on_all, key=lambda kernel: max(times[kernel] for times in each_rank))


def _trial_ms(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, kernel: Kernel) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    out, lse = attention(q, k, v, kernel)
    attention_pullback(grad, q, k, v, out, lse, kernel)
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
