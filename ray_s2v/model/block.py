"""One transformer block with two modulations: one for the noisy tokens, one (timestep zero) for reference and motion tokens."""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor

from ray_s2v.model.fused.block import Shared
from ray_s2v.model.fused.units import Unit, run_block


def modulated(hidden: Tensor, scale: Tensor, shift: Tensor, num_noisy: int) -> Tensor:
    """hidden * (1 + scale) + shift, with column 0 of scale and shift for the first `num_noisy` tokens and column 1 for the rest.

    hidden: [batch, tokens, dim]. scale, shift: [batch, 2, dim]. The segments are written out because a modulation per token
    would take 4 GB in each of 40 blocks.
    """
    noisy = hidden[:, :num_noisy] * (1 + scale[:, :1]) + shift[:, :1]
    rest = hidden[:, num_noisy:] * (1 + scale[:, 1:]) + shift[:, 1:]
    return torch.cat([noisy, rest], dim=1)


def gated(residual: Tensor, gate: Tensor, num_noisy: int) -> Tensor:
    """residual * gate, by the same two columns as `modulated`; float32 because the gate is."""
    return torch.cat([residual[:, :num_noisy] * gate[:, :1], residual[:, num_noisy:] * gate[:, 1:]], dim=1)


def _for_diffusers(rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The table in the shape that WanAttnProcessor takes: [1, tokens, 1, head_dim], each value repeated for its pair."""
    cosines, sines = (table.repeat_interleave(2, dim=1)[None, :, None] for table in rotary)
    return cosines, sines


class WanS2VBlock(WanTransformerBlock):
    """diffusers' Wan block (its parameters, its attention, its feed-forward) modulated by segment (wan_s2v 4.3)."""

    unit: Unit | None = None  # the fast form, once `fuse` has made it

    def forward(self, hidden: Tensor, text: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor], num_noisy: int) -> Tensor:
        """[batch, tokens, dim] float32 -> the same. The residual stream and all modulation are float32, products are in text's dtype.

        text: [batch, 512, dim]. modulation: [batch, 6, 2, dim] float32. rotary: cosines and sines [tokens, head_dim / 2].
        """
        if self.unit:
            return run_block(self.unit, hidden, Shared(text, modulation, *rotary), num_noisy)
        table = self.scale_shift_table.unsqueeze(2) + modulation
        shift_attention, scale_attention, gate_attention, shift_ffn, scale_ffn, gate_ffn = table.unbind(1)

        normed = modulated(self.norm1(hidden), scale_attention, shift_attention, num_noisy).to(text.dtype)
        hidden = hidden + gated(self.attn1(normed, rotary_emb=_for_diffusers(rotary)), gate_attention, num_noisy)
        hidden = hidden + self.attn2(self.norm2(hidden).to(text.dtype), text)
        normed = modulated(self.norm3(hidden), scale_ffn, shift_ffn, num_noisy).to(text.dtype)
        return hidden + gated(self.ffn(normed), gate_ffn, num_noisy)
