"""One transformer block (wan_s2v 4.3) as a function of tensors, and its pullback, which recomputes all but self-attention.

The same arithmetic as model/block.py: residual stream, norms and modulation in float32, products in the dtype of the text. What only
a frozen tensor's gradient would need is not computed, nor is the feed-forward's second product in the pullback.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ray_s2v.model.fused.attention import Kernel, attention, attention_pullback
from ray_s2v.model.fused.feed_forward import FeedForward, feed_forward, feed_forward_pullback
from ray_s2v.model.fused.linear import Linear, lora_gradients, project, project_pullback
from ray_s2v.model.fused.norms import (
    by_segment,
    layer_norm,
    layer_norm_pullback,
    rms_norm,
    rms_norm_pullback,
    rotated,
)  # fmt: skip


class Attention(NamedTuple):
    q: Linear
    k: Linear
    v: Linear
    out: Linear
    norm_q: Tensor
    norm_k: Tensor


class Block(NamedTuple):
    """A block's weights."""

    self_attention: Attention
    text_attention: Attention
    up: Linear
    down: Linear
    norm_scale: Tensor
    norm_shift: Tensor
    modulation: Tensor  # [1, 6, dim] float32


class Plan(NamedTuple):
    """What is no tensor."""

    num_noisy: int
    num_heads: int
    eps: float
    kernel: Kernel
    feed_forward_chunks: int


class Shared(NamedTuple):
    """What all blocks see alike. text [batch, 512, dim], modulation [batch, 6, 2, dim], cosines and sines [tokens, head_dim / 2]."""

    text: Tensor
    modulation: Tensor
    cosines: Tensor
    sines: Tensor


class _Modulation(NamedTuple):
    """[batch, tokens, dim] each, never written out by a compiler; scales with their 1 added."""

    shift_attention: Tensor
    scale_attention: Tensor
    gate_attention: Tensor
    shift_ffn: Tensor
    scale_ffn: Tensor
    gate_ffn: Tensor


def _modulation(block: Block, shared: Shared, num_tokens: int, num_noisy: int) -> _Modulation:
    noisy = torch.arange(num_tokens, device=shared.modulation.device) < num_noisy
    columns = [by_segment(values, noisy) for values in (block.modulation.unsqueeze(2) + shared.modulation).unbind(1)]
    return _Modulation(columns[0], 1 + columns[1], columns[2], columns[3], 1 + columns[4], columns[5])


def _self_inputs(block: Block, hidden: Tensor, shared: Shared, m: _Modulation, plan: Plan) -> tuple[Tensor, ...]:
    """What self-attention is computed from: the layers' input x [tokens, dim], q and k before their norm, then q, k and v by head."""
    w, dtype, by_head = block.self_attention, shared.text.dtype, (*hidden.shape[:2], plan.num_heads, -1)
    x = layer_norm(hidden, m.scale_attention, m.shift_attention, plan.eps).to(dtype).flatten(0, 1)
    q_raw, k_raw, v = project(x, (w.q, w.k, w.v))
    q, k = (
        rotated(rms_norm(raw, norm, plan.eps).view(by_head), shared.cosines, shared.sines).to(dtype)
        for raw, norm in ((q_raw, w.norm_q), (k_raw, w.norm_k))
    )
    return x, q_raw, k_raw, q, k, v.view(by_head)


class _Text(NamedTuple):
    """The way through text attention: its inputs x and text [tokens, dim], q and k before their norm, q, k, v, output and log-sum-exp."""

    x: Tensor
    text: Tensor
    q_raw: Tensor
    k_raw: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    lse: Tensor


def _through_text(block: Block, hidden: Tensor, shared: Shared, plan: Plan) -> _Text:
    w, text, dtype = block.text_attention, shared.text.flatten(0, 1), shared.text.dtype
    of_tokens, of_text = (*hidden.shape[:2], plan.num_heads, -1), (*shared.text.shape[:2], plan.num_heads, -1)
    x = layer_norm(hidden, block.norm_scale, block.norm_shift, plan.eps).to(dtype).flatten(0, 1)
    (q_raw,) = project(x, (w.q,))
    k_raw, v = project(text, (w.k, w.v))
    q = rms_norm(q_raw, w.norm_q, plan.eps).to(dtype).view(of_tokens)
    k = rms_norm(k_raw, w.norm_k, plan.eps).to(dtype).view(of_text)
    v = v.view(of_text)
    return _Text(x, text, q_raw, k_raw, q, k, v, *attention(q, k, v, plan.kernel))


def _after_attention(block: Block, hidden: Tensor, attended: Tensor, m: _Modulation) -> Tensor:
    (projected,) = project(attended.flatten(2).flatten(0, 1), (block.self_attention.out,))
    return hidden + projected.view_as(hidden) * m.gate_attention


def _after_text(block: Block, hidden: Tensor, through: _Text) -> Tensor:
    (projected,) = project(through.attended.flatten(2).flatten(0, 1), (block.text_attention.out,))
    return hidden + projected.view_as(hidden)


def _feed_forward_of(block: Block, m: _Modulation, shared: Shared, plan: Plan) -> FeedForward:
    return FeedForward(block.up, block.down, m.scale_ffn, m.shift_ffn, m.gate_ffn, shared.text.dtype, plan.eps, plan.feed_forward_chunks)


def block_forward(block: Block, hidden: Tensor, shared: Shared, plan: Plan) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states after the block, and what its pullback can be spared: self-attention's output and log-sum-exp, and what enters
    the feed-forward's GELU [tokens, inner].

    hidden: [batch, tokens, dim] float32.
    """
    m = _modulation(block, shared, hidden.shape[1], plan.num_noisy)
    *_, q, k, v = _self_inputs(block, hidden, shared, m, plan)
    attended, lse = attention(q, k, v, plan.kernel)
    hidden = _after_attention(block, hidden, attended, m)
    hidden = _after_text(block, hidden, _through_text(block, hidden, shared, plan))
    out, before = feed_forward(hidden, _feed_forward_of(block, m, shared, plan))
    return out, attended, lse, before


def block_pullback(
    block: Block,
    grad: Tensor,
    hidden: Tensor,
    attended: Tensor | None,
    lse: Tensor | None,
    before: Tensor | None,
    shared: Shared,
    plan: Plan,
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of `hidden` and of the LoRA factors (`down`, `up` of q, k, v, out of self, then text attention, then up, down).

    hidden: what `block_forward` was given; attended, lse, before: what it gave besides, computed again where None.
    """
    dtype = shared.text.dtype
    m = _modulation(block, shared, hidden.shape[1], plan.num_noisy)
    if attended is None or lse is None:
        *_, q, k, v = _self_inputs(block, hidden, shared, m, plan)
        attended, lse = attention(q, k, v, plan.kernel)
    after_attention = _after_attention(block, hidden, attended, m)
    text = _through_text(block, after_attention, shared, plan)
    after_text = _after_text(block, after_attention, text)

    grad, of_feed_forward = feed_forward_pullback(grad, after_text, before, _feed_forward_of(block, m, shared, plan))
    grad, of_text = _text_pullback(block, grad, after_attention, text, plan)

    w = block.self_attention
    of_attended, of_out = project_pullback([(grad * m.gate_attention).to(dtype).flatten(0, 1)], attended.flatten(2).flatten(0, 1), (w.out,))
    x, q_raw, k_raw, q, k, v = _self_inputs(block, hidden, shared, m, plan)
    grads = attention_pullback(of_attended.to(dtype).view_as(q), q, k, v, attended, lse, plan.kernel)
    of_q, of_k = (
        rms_norm_pullback(rotated(g, shared.cosines, -shared.sines).flatten(2).flatten(0, 1), raw, norm, plan.eps).to(dtype)
        for g, raw, norm in zip(grads, (q_raw, k_raw), (w.norm_q, w.norm_k), strict=False)
    )
    of_x, of_qkv = project_pullback([of_q, of_k, grads[2].flatten(2).flatten(0, 1)], x, (w.q, w.k, w.v))
    grad = grad + layer_norm_pullback(of_x.view_as(hidden), hidden, m.scale_attention, plan.eps)
    return grad, [*of_qkv, *of_out, *of_text, *of_feed_forward]


def _text_pullback(block: Block, grad: Tensor, hidden: Tensor, text: _Text, plan: Plan) -> tuple[Tensor, list[Tensor]]:
    w, dtype = block.text_attention, text.x.dtype
    of_attended, of_out = project_pullback([grad.to(dtype).flatten(0, 1)], text.attended.flatten(2).flatten(0, 1), (w.out,))
    of_q, of_k, of_v = attention_pullback(
        of_attended.to(dtype).view_as(text.q), text.q, text.k, text.v, text.attended, text.lse, plan.kernel
    )
    of_q = rms_norm_pullback(of_q.flatten(2).flatten(0, 1), text.q_raw, w.norm_q, plan.eps).to(dtype)
    of_k = rms_norm_pullback(of_k.flatten(2).flatten(0, 1), text.k_raw, w.norm_k, plan.eps).to(dtype)
    of_x, of_lora_q = project_pullback([of_q], text.x, (w.q,))
    of_lora_kv = lora_gradients([of_k, of_v.flatten(2).flatten(0, 1)], text.text, (w.k, w.v))
    grad = grad + layer_norm_pullback(of_x.view_as(hidden), hidden, block.norm_scale, plan.eps)
    return grad, [*of_lora_q, *of_lora_kv, *of_out]
