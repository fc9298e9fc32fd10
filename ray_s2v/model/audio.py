"""How sound enters the network: the causal audio encoder, and the injection into the video tokens of the same latent frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.normalization import AdaLayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn

from ray_s2v.model.fused.units import Unit, run_injection

NUM_AUDIO_TOKENS = 4  # of a latent frame, before the learned padding token


class CausalConv1d(nn.Module):
    """Convolution over time that sees the present and the two frames before it; before the start it sees the first frame again."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size=3, stride=stride)

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, time, in_channels] -> [batch, (time - 1) // stride + 1, out_channels]."""
        return self.conv(F.pad(hidden.transpose(1, 2), (2, 0), mode="replicate")).transpose(1, 2)


class MotionEncoder(nn.Module):
    """Four audio tokens and one global vector of each latent frame, from four audio frames each (wan_s2v 4.1)."""

    def __init__(self, audio_dim: int, dim: int) -> None:
        super().__init__()
        self.conv1_local = CausalConv1d(audio_dim, dim // 4 * NUM_AUDIO_TOKENS)
        self.conv1_global = CausalConv1d(audio_dim, dim // 4)
        self.conv2 = CausalConv1d(dim // 4, dim // 2, stride=2)
        self.conv3 = CausalConv1d(dim // 2, dim, stride=2)
        self.final_linear = nn.Linear(dim, dim)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def _downsample(self, hidden: Tensor) -> Tensor:
        """[batch, audio frames, dim / 4] -> [batch, latent frames, dim]."""
        for conv in (None, self.conv2, self.conv3):
            hidden = hidden if conv is None else conv(hidden)
            hidden = F.silu(F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6))
        return hidden

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, audio frames, audio_dim] -> global [batch, frames, 1, dim] and local [batch, frames, 5, dim]."""
        batch = features.shape[0]
        local = self.conv1_local(features)
        local = local.unflatten(2, (NUM_AUDIO_TOKENS, -1)).transpose(1, 2).flatten(0, 1)
        local = self._downsample(local).unflatten(0, (batch, NUM_AUDIO_TOKENS)).transpose(1, 2)
        local = torch.cat([local, self.padding_tokens.expand(batch, local.shape[1], 1, -1)], dim=2)
        global_vector = self.final_linear(self._downsample(self.conv1_global(features)))
        return global_vector.unsqueeze(2), local


class CausalAudioEncoder(nn.Module):
    """Weighs Wav2Vec2's layers, then encodes them causally in time. Runs in float32, as the official model."""

    def __init__(self, num_layers: int, audio_dim: int, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((1, num_layers, 1, 1), 0.01))
        self.encoder = MotionEncoder(audio_dim, dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, layers, audio_dim, audio frames] -> global [batch, frames, 1, dim] and local [batch, frames, 5, dim].

        The layers' weights are SiLU-normalised, not a softmax: one alone can be negative.
        """
        weights = F.silu(self.weights)
        weighed = (features.float() * weights / weights.sum(dim=1, keepdim=True)).sum(dim=1)
        return self.encoder(weighed.transpose(1, 2))

    def encode_clip(self, features: Tensor, motion_frames: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The same for a clip of 4 T audio frames: exactly T frames come out, frame k sees audio frames 4k-5 .. 4k+3.

        The clip's own first audio frame is repeated `motion_frames[0]` times in front, in continuations as well, and
        `motion_frames[1]` frames are cut again.
        """
        padded = torch.cat([features[..., :1].expand(-1, -1, -1, motion_frames[0]), features], dim=-1)
        global_vector, local = self(padded)
        return global_vector[:, motion_frames[1] :], local[:, motion_frames[1] :]


class _Injection(WanAttnProcessor):
    """Runs an injector's attention by its unit: called as its module, which is where ZeRO-3 gathers the weights."""

    def __call__(self, attn: WanAttention, hidden: Tensor, sound: Tensor, *_: None, unit: Unit, **given: Any) -> Tensor:
        return run_injection(unit, hidden, sound=sound, **given)


class AudioInjector(nn.Module):
    """Cross-attention from each latent frame's video tokens to that frame's five audio tokens (wan_s2v 4.4)."""

    units: Sequence[Unit] = ()  # the fast form, once `fuse` has made it

    def __init__(self, dim: int, num_heads: int, num_injectors: int, eps: float) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.injector = nn.ModuleList(
            WanAttention(dim, num_heads, head_dim, eps=eps, cross_attention_dim_head=head_dim, processor=WanAttnProcessor())
            for _ in range(num_injectors)
        )
        self.injector_adain_layers = nn.ModuleList(
            AdaLayerNorm(embedding_dim=dim, output_dim=2 * dim, chunk_dim=1) for _ in range(num_injectors)
        )

    def run_by(self, units: Sequence[Unit]) -> None:
        """Injections run by these units from now on, in the injectors' order."""
        self.units = units
        injectors: Any = self.injector
        for injector in injectors:
            injector.set_processor(_Injection())

    def forward(self, index: int, hidden: Tensor, global_vector: Tensor, local: Tensor, num_noisy: int) -> Tensor:
        """Hidden states with injector `index`'s residual added to the first `num_noisy` tokens; a new tensor.

        hidden: [batch, tokens, dim] float32. global_vector: [batch, frames, 1, dim], local: [batch, frames, 5, dim] in the compute dtype.
        """
        if self.units:
            adain: Any = self.injector_adain_layers[index]
            shift, scale = adain.linear(adain.silu(global_vector.flatten(0, 2)))[:, None].float().chunk(2, dim=2)
            return self.injector[index](hidden, local, unit=self.units[index], scale=1 + scale, shift=shift, num_noisy=num_noisy)
        batch, frames = local.shape[:2]
        noisy = hidden[:, :num_noisy].unflatten(1, (frames, -1)).flatten(0, 1)
        normed = self.injector_adain_layers[index](noisy, temb=global_vector.flatten(0, 2)).to(local.dtype)
        residual = self.injector[index](normed, local.flatten(0, 1)).unflatten(0, (batch, frames)).flatten(1, 2)
        return torch.cat([hidden[:, :num_noisy] + residual, hidden[:, num_noisy:]], dim=1)
