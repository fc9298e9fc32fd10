"""The Wan 2.2 S2V transformer: noisy video, reference picture, motion history, pose, text and sound to flow velocity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from ray_s2v.model.audio import AudioInjector, CausalAudioEncoder
from ray_s2v.model.block import WanS2VBlock
from ray_s2v.model.checkpoint import load_model
from ray_s2v.model.lora import ADAPTER_FILE, PREFIX, load_adapter
from ray_s2v.model.motion import FramePacker
from ray_s2v.model.rope import rotary_table
from ray_s2v.model.tread import Kept, Way
from ray_s2v.schema import ConfigError

TEXT_LENGTH = 512

# What the 14B model is; the class builds nothing else.
REQUIRED = {
    "patch_size": (1, 2, 2),
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "enable_adain": True,
    "adain_mode": "attn_norm",
    "enable_framepack": True,
    "framepack_drop_mode": "padd",
    "zero_timestep": True,
    "added_kv_proj_dim": None,
}


def timestep_sinusoid(timestep: Tensor, width: int) -> Tensor:
    """[batch] -> [batch, width] float32, cosines before sines; computed in float64, which large timesteps need."""
    half = width // 2
    frequencies = 10000 ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) / half)
    angles = timestep.double()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


class ConditionEmbedder(nn.Module):
    """Time, text, pose and sound before the blocks; the names are those of the diffusers-format checkpoint."""

    def __init__(self, dim: int, freq_dim: int, text_dim: int, pose_dim: int, audio_dim: int, num_audio_layers: int, patch: Any) -> None:
        super().__init__()
        self.time_embedder = TimestepEmbedding(in_channels=freq_dim, time_embed_dim=dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")
        self.causal_audio_encoder = CausalAudioEncoder(num_audio_layers, audio_dim, dim)
        self.pose_embedder = nn.Conv3d(pose_dim, dim, kernel_size=patch, stride=patch)

    def time(self, timestep: Tensor, freq_dim: int) -> tuple[Tensor, Tensor]:
        """[batch] -> time embedding [batch, dim] and modulation [batch, 6, 2, dim], column 1 being that of timestep zero. float32."""
        embedded = self.time_embedder(timestep_sinusoid(F.pad(timestep.float(), (0, 1)), freq_dim))
        modulation = self.time_proj(F.silu(embedded)).unflatten(1, (6, -1))
        own, zero = modulation[:-1], modulation[-1:].expand(len(timestep), -1, -1)
        return embedded[:-1], torch.stack([own, zero], dim=2)

    def text(self, text: list[Tensor], dtype: torch.dtype) -> Tensor:
        """A list of [length, text_dim] -> [batch, 512, dim]. Padded with zeros before the MLP: the padding takes part in attention."""
        padded = torch.stack([F.pad(t.to(dtype), (0, 0, 0, TEXT_LENGTH - len(t))) for t in text])
        return self.text_embedder(padded)


class WanS2VTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Wan 2.2 S2V 14B's network, and smaller ones of its kind, under the diffusers-format names.

    Precision as the official run: residual stream, norms, modulation, time, audio encoder and head in float32; the products of
    the blocks, the injectors, text and patches in the dtype of the weights (wan_s2v 6).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["WanS2VBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["WanS2VBlock"]
    # Parts of names; loading keeps these parameters in float32.
    _keep_in_fp32_modules: ClassVar[list[str]] = [
        "time_embedder", "time_proj", "causal_audio_encoder", "scale_shift_table", "norm2", "proj_out", "trainable_condition_mask",
    ]  # fmt: skip

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        audio_dim: int = 1024,
        audio_inject_layers: tuple[int, ...] = (0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39),
        enable_adain: bool = True,
        adain_mode: str = "attn_norm",
        pose_dim: int = 16,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        enable_framepack: bool = True,
        framepack_drop_mode: str = "padd",
        add_last_motion: bool = True,
        zero_timestep: bool = True,
        num_weighted_avg_layers: int = 25,
    ) -> None:
        super().__init__()
        given = locals()
        wrong = [
            f"{key} is {given[key]!r}, the 14B model has {value!r}"
            for key, value in REQUIRED.items()
            if (tuple(given[key]) if isinstance(given[key], list) else given[key]) != value
        ]
        if sorted(set(audio_inject_layers)) != list(audio_inject_layers) or not set(audio_inject_layers) <= set(range(num_layers)):
            wrong.append(f"audio_inject_layers {list(audio_inject_layers)} must be ascending block numbers below {num_layers}")
        if wrong:
            raise ConfigError("this is another configuration than Wan 2.2 S2V 14B's: " + "; ".join(wrong))

        dim = num_attention_heads * attention_head_dim
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = ConditionEmbedder(dim, freq_dim, text_dim, pose_dim, audio_dim, num_weighted_avg_layers, patch_size)
        self.trainable_condition_mask = nn.Embedding(3, dim)
        self.frame_packer = FramePacker(in_channels, dim)
        self.blocks = nn.ModuleList(
            WanS2VBlock(dim, ffn_dim, num_attention_heads, qk_norm, cross_attn_norm, eps) for _ in range(num_layers)
        )
        self.audio_injector = AudioInjector(dim, num_attention_heads, len(audio_inject_layers), eps)
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * 4)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.injector_of_block = {block: index for index, block in enumerate(audio_inject_layers)}
        self.gradient_checkpointing = False

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device | Callable[[str], torch.device] = "cpu",
    ) -> WanS2VTransformer3DModel:
        """The network with a checkpoint's weights; every tensor there and none over, or a ConfigError that names them.

        place: a folder or a hub id, in the official, the repackaged or the diffusers layout. torch_dtype: of the weights whose
        precision does not matter (the others are float32); as stored when None. device: of all tensors, or of each by its name.
        """
        device_of = device if callable(device) else lambda _: torch.device(device)
        return load_model(cls, f"{place}/{subfolder}" if subfolder else str(place), torch_dtype, device_of)

    def load_lora_adapter(self, source: str | Path | dict[str, Tensor], prefix: str | None = "transformer", **kwargs: Any) -> None:
        """diffusers' loader, which here also takes a folder written by PEFT, as our runs leave them, or its file."""
        folder = None if isinstance(source, dict) else Path(source).parent if Path(source).name == ADAPTER_FILE else Path(source)
        if folder and (folder / ADAPTER_FILE).is_file():
            tensors, config = load_adapter(folder)
            described = {f"{PREFIX}.{key}": value for key, value in config.to_dict().items()}
            super().load_lora_adapter(tensors, prefix=PREFIX, metadata=described, **kwargs)
        else:
            super().load_lora_adapter(source, prefix=prefix, **kwargs)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: list[Tensor],
        reference: Tensor,
        motion: Tensor | None = None,
        pose: Tensor | None = None,
        *,
        audio: Tensor,
        add_last_motion: int = 2,
        motion_frames: tuple[int, int] = (73, 19),
        routes: Sequence[Kept] = (),
    ) -> Tensor:
        """Flow velocity (noise minus clean latents) [batch, 16, latent_frames, h, w] in float32.

        latents: [batch, 16, latent_frames, h, w], h and w even. timestep: [batch] on the 0..1000 scale, fractions welcome, never bf16.
        text: [length, text_dim] each, at most 512 long. reference: [batch, 16, 1, h, w].
        motion: [batch, 16, frames, h, w], None for a first clip: no motion tokens. pose: like latents, None means zeros.
        audio: [batch, 25, audio_dim, 4 * latent_frames]. motion_frames: history in frames and latent frames (audio phase).
        routes: blocks that only some of the noisy tokens go through; they do not overlap.
        """
        assert timestep.dtype not in (torch.bfloat16, torch.float16), "a timestep in half precision names another noise level"
        batch, _, frames, height, width = latents.shape
        assert audio.shape[-1] == 4 * frames, f"{frames} latent frames need {4 * frames} audio frames, not {audio.shape[-1]}"
        dtype = self.patch_embedding.weight.dtype

        audio_global, audio_local = self.condition_embedder.causal_audio_encoder.encode_clip(audio, motion_frames)
        tokens, num_noisy = self._tokens(latents, reference, motion, pose, add_last_motion * int(self.config.add_last_motion), dtype)
        time_embedding, modulation = self.condition_embedder.time(timestep, self.config.freq_dim)
        context = self.condition_embedder.text(text, dtype)
        rotary = rotary_table(frames, height, width, motion is not None, self.config.attention_head_dim, latents.device)

        audio_global, audio_local = audio_global.to(dtype), audio_local.to(dtype)
        if self.blocks[0].unit and torch.is_grad_enabled():
            tokens.requires_grad_()  # or ZeRO-3 would let go of the first block's weights before its backward pass
        way = whole = Way(tokens, rotary, num_noisy)
        for index in range(len(self.blocks)):
            if entered := next((kept for kept in routes if kept.route.first == index), None):
                whole, way = way, way.entering(entered)
            arguments = (index, way.hidden, context, modulation, way.rotary, way.num_noisy, audio_global, audio_local)
            if self.gradient_checkpointing and torch.is_grad_enabled() and not self.blocks[index].unit:
                hidden = self._gradient_checkpointing_func(self._layer, *arguments)
            else:
                hidden = self._layer(*arguments)
            left = next((kept for kept in routes if kept.route.last == index), None)
            way = whole.rejoined(left, hidden) if left else replace(way, hidden=hidden)

        shift, scale = (self.scale_shift_table + time_embedding[:, None]).chunk(2, dim=1)
        hidden = self.norm_out(way.hidden[:, :num_noisy]) * (1 + scale) + shift
        patches = self.proj_out(hidden).view(batch, frames, height // 2, width // 2, 2, 2, -1)
        return patches.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, frames, height, width)

    def _tokens(
        self, latents: Tensor, reference: Tensor, motion: Tensor | None, pose: Tensor | None, add_last_motion: int, dtype: torch.dtype
    ) -> tuple[Tensor, int]:
        """What enters block 0, [batch, tokens, dim] float32 in the order noisy, reference, motion; and how many are noisy."""
        pose = torch.zeros_like(latents) if pose is None else pose
        grid = self.patch_embedding(latents.to(dtype)).float() + self.condition_embedder.pose_embedder(pose.to(dtype))
        segments = [grid.flatten(2).transpose(1, 2), self.patch_embedding(reference.to(dtype)).flatten(2).transpose(1, 2)]
        if motion is not None:
            segments.append(self.frame_packer(motion.to(dtype), add_last_motion))
        labels = torch.cat([torch.full((segment.shape[1],), label, device=latents.device) for label, segment in enumerate(segments)])
        return torch.cat([s.float() for s in segments], dim=1) + self.trainable_condition_mask(labels), segments[0].shape[1]

    def _layer(
        self,
        index: int,
        hidden: Tensor,
        context: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor],
        num_noisy: int,
        audio_global: Tensor,
        audio_local: Tensor,
    ) -> Tensor:
        """Block `index` and the audio injection that follows it, if any: the unit of gradient checkpointing.

        The index is an argument, so recomputation cannot run another block's injector, and nothing is changed in place.
        """
        hidden = self.blocks[index](hidden, context, modulation, rotary, num_noisy)
        if index in self.injector_of_block:
            hidden = self.audio_injector(self.injector_of_block[index], hidden, audio_global, audio_local, num_noisy)
        return hidden
