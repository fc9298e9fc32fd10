"""One transformer block with two modulations: one for the noisy tokens, one (timestep zero) for reference and motion tokens."""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor


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


class WanS2VBlock(WanTransformerBlock):
    """diffusers' Wan block (its parameters, its attention, its feed-forward) modulated by segment (wan_s2v 4.3)."""

    def forward(self, hidden: Tensor, text: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor], num_noisy: int) -> Tensor:
        """[batch, tokens, dim] float32 -> the same. The residual stream and all modulation are float32, products are in text's dtype.

        text: [batch, 512, dim]. modulation: [batch, 6, 2, dim] float32. rotary: two of [1, tokens, 1, head_dim].
        """
        table = self.scale_shift_table.unsqueeze(2) + modulation
        shift_attention, scale_attention, gate_attention, shift_ffn, scale_ffn, gate_ffn = table.unbind(1)

        normed = modulated(self.norm1(hidden), scale_attention, shift_attention, num_noisy).to(text.dtype)
        hidden = hidden + gated(self.attn1(normed, rotary_emb=rotary), gate_attention, num_noisy)
        hidden = hidden + self.attn2(self.norm2(hidden).to(text.dtype), text)
        normed = modulated(self.norm3(hidden), scale_ffn, shift_ffn, num_noisy).to(text.dtype)
        return hidden + gated(self.ffn(normed), gate_ffn, num_noisy)
