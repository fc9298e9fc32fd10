"""The audio injection (wan_s2v 4.4) as a function of tensors, and its pullback, which recomputes it."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_s2v.model.fused.attention import attention, attention_pullback
from ray_s2v.model.fused.block import Attention, Plan
from ray_s2v.model.fused.linear import lora_gradients, project, project_pullback
from ray_s2v.model.fused.norms import layer_norm, layer_norm_pullback, rms_norm, rms_norm_pullback

ADAIN_EPS = 1e-5


def _through(w: Attention, hidden: Tensor, scale: Tensor, shift: Tensor, sound: Tensor, plan: Plan) -> tuple[Tensor, ...]:
    """Noisy tokens by frame [batch * frames, tokens of a frame, dim]; the layers' input; q and k before their norm; q, k, v; attention."""
    frames, dtype = sound.shape[1], sound.dtype
    noisy = hidden[:, : plan.num_noisy].reshape(hidden.shape[0] * frames, -1, hidden.shape[2])
    x = layer_norm(noisy, scale, shift, ADAIN_EPS).to(dtype).flatten(0, 1)
    (q_raw,) = project(x, (w.q,))
    k_raw, v = project(sound.flatten(0, 2), (w.k, w.v))
    q = rms_norm(q_raw, w.norm_q, plan.eps).to(dtype).view(*noisy.shape[:2], plan.num_heads, -1)
    k = rms_norm(k_raw, w.norm_k, plan.eps).to(dtype).view(noisy.shape[0], sound.shape[2], plan.num_heads, -1)
    v = v.view_as(k)
    return noisy, x, q_raw, k_raw, q, k, v, *attention(q, k, v, plan.kernel)


def injection_forward(w: Attention, hidden: Tensor, scale: Tensor, shift: Tensor, sound: Tensor, plan: Plan) -> Tensor:
    """Hidden states with what each frame's tokens heard added to the first `num_noisy` of them.

    hidden: [batch, tokens, dim] float32. scale (with its 1 added), shift: [batch * frames, 1, dim]. sound: [batch, frames, 5, dim].
    """
    *_, attended, _ = _through(w, hidden, scale, shift, sound, plan)
    (residual,) = project(attended.flatten(2).flatten(0, 1), (w.out,))
    noisy = hidden[:, : plan.num_noisy]
    return torch.cat([noisy + residual.view_as(noisy), hidden[:, plan.num_noisy :]], dim=1)


def injection_pullback(
    w: Attention, grad: Tensor, hidden: Tensor, scale: Tensor, shift: Tensor, sound: Tensor, plan: Plan
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of `hidden` and of the LoRA factors (`down`, `up` of q, k, v, out)."""
    dtype = sound.dtype
    noisy, x, q_raw, k_raw, q, k, v, attended, lse = _through(w, hidden, scale, shift, sound, plan)
    of_noisy = grad[:, : plan.num_noisy]
    of_attended, of_out = project_pullback([of_noisy.to(dtype).flatten(0, 1)], attended.flatten(2).flatten(0, 1), (w.out,))
    of_q, of_k, of_v = attention_pullback(of_attended.to(dtype).view_as(q), q, k, v, attended, lse, plan.kernel)
    of_q = rms_norm_pullback(of_q.flatten(2).flatten(0, 1), q_raw, w.norm_q, plan.eps).to(dtype)
    of_k = rms_norm_pullback(of_k.flatten(2).flatten(0, 1), k_raw, w.norm_k, plan.eps).to(dtype)
    of_x, of_lora_q = project_pullback([of_q], x, (w.q,))
    of_lora_kv = lora_gradients([of_k, of_v.flatten(2).flatten(0, 1)], sound.flatten(0, 2), (w.k, w.v))
    through = layer_norm_pullback(of_x.view_as(noisy), noisy, scale, ADAIN_EPS).view_as(of_noisy)
    return torch.cat([of_noisy + through, grad[:, plan.num_noisy :]], dim=1), [*of_lora_q, *of_lora_kv, *of_out]
