"""The weights of a block or an injector, found in diffusers' modules as PEFT has wrapped them."""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from peft.tuners.lora import LoraLayer
from torch import nn

from ray_s2v.model.fused.block import Attention, Block
from ray_s2v.model.fused.linear import Linear, Lora

ADAPTER = "default"


def _linear(module: Any) -> Linear:
    base = module.base_layer if isinstance(module, LoraLayer) else module
    lora = None
    if isinstance(module, LoraLayer):
        lora = Lora(module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight, module.scaling[ADAPTER])
    return Linear(base.weight, base.bias, dict(base.named_buffers()).get("scales"), lora)


def attention_weights(module: WanAttention) -> Attention:
    q, k, v, out = (_linear(m) for m in (module.to_q, module.to_k, module.to_v, module.to_out[0]))
    return Attention(q, k, v, out, module.norm_q.weight, module.norm_k.weight)


def block_weights(module: WanTransformerBlock) -> Block:
    return Block(
        attention_weights(module.attn1),
        attention_weights(module.attn2),
        _linear(module.ffn.net[0].proj),
        _linear(module.ffn.net[2]),
        module.norm2.weight,
        module.norm2.bias,
        module.scale_shift_table,
    )


def adapters(weights: Block | Attention) -> list[nn.Parameter]:
    """`down` and `up` of each adapted layer, in the order in which the pullbacks give their gradients."""
    attentions = [weights.self_attention, weights.text_attention] if isinstance(weights, Block) else [weights]
    layers = [layer for w in attentions for layer in (w.q, w.k, w.v, w.out)]
    layers += [weights.up, weights.down] if isinstance(weights, Block) else []
    return [factor for layer in layers if layer.lora for factor in (layer.lora.down, layer.lora.up)]  # type: ignore[misc]
