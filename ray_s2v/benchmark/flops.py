"""Operations of the network's products (wan_s2v 15), for any configuration; 2 for a multiply and an add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray_s2v.model.audio import NUM_AUDIO_TOKENS
from ray_s2v.model.rope import segment_positions
from ray_s2v.model.transformer import TEXT_LENGTH
from ray_s2v.model.tread import Route, kept_in_blocks
from ray_s2v.schema import FRAMES_PER_LATENT, HISTORY_FRAMES, LATENT_STRIDE, Bucket

SOUND_TOKENS = NUM_AUDIO_TOKENS + 1  # of a latent frame, with the learned one
TAPS = 3  # of the sound encoder's convolutions


@dataclass(frozen=True)
class Flops:
    """Of one forward pass, part by part; all parts but the attentions are products with weights."""

    of_self: int  # queries, keys, values and outputs of self-attention
    of_text: int
    feed_forward: int
    injection: int
    rest: int  # patches, motion, time, text and sound before the blocks, and the head
    self_attention: int
    text_attention: int
    audio_attention: int

    @property
    def linear(self) -> int:
        return self.of_self + self.of_text + self.feed_forward + self.injection + self.rest

    @property
    def attention(self) -> int:
        return self.self_attention + self.text_attention + self.audio_attention

    @property
    def step(self) -> int:
        """Model FLOPs of a LoRA training step: 2 x linear + 3 x attention.

        Frozen weights take the forward pass and the input's gradient, attention the forward pass and two backward (plain counting:
        the scores that flash kernels compute again are not counted, nor is any other recomputation, nor the adapters' own products).
        That is the counting of the measured prototype: 2 x 785.7 + 3 x 810.6 = 4003 TF in 9.508 s are 421 TFLOP/s.
        """
        return 2 * self.linear + 3 * self.attention


def forward_flops(config: Any, bucket: Bucket, clips: int, has_motion: bool, routes: Sequence[Route] = ()) -> Flops:
    """Of a batch of `clips`; config is that of a WanS2VTransformer3DModel. routes: of TREAD."""
    dim = config.num_attention_heads * config.attention_head_dim
    frames = bucket.num_frames // FRAMES_PER_LATENT
    segments = segment_positions(frames, bucket.height // LATENT_STRIDE, bucket.width // LATENT_STRIDE)
    counts = [len(segment) for segment in segments]
    noisy, reference, *motion = counts if has_motion else [*counts[:2], 0, 0, 0]
    blocks, injectors = config.num_layers * clips, len(config.audio_inject_layers) * clips
    noisy_in = [frames * count for count in kept_in_blocks(routes, noisy // frames, config.num_layers)]
    tokens_in = [count + reference + sum(motion) for count in noisy_in]
    tokens, injected = clips * sum(tokens_in), clips * sum(noisy_in[index] for index in config.audio_inject_layers)
    sound_tokens = SOUND_TOKENS * frames
    patches = 4 * (config.in_channels * (noisy + reference) + config.pose_dim * noisy)
    packed = config.in_channels * sum(count * cells for count, cells in zip(motion, (4, 2 * 16, 4 * 64), strict=True))
    time = 7 * dim + config.freq_dim  # of one noise level; that of zero stands beside the clips'
    text = TEXT_LENGTH * (config.text_dim + dim)
    head = 4 * config.out_channels * noisy
    return Flops(
        of_self=8 * tokens * dim**2,
        of_text=4 * (tokens + blocks * TEXT_LENGTH) * dim**2,
        feed_forward=4 * tokens * dim * config.ffn_dim,
        injection=4 * (injected + injectors * (sound_tokens + frames)) * dim**2,
        rest=2 * dim * (clips * (patches + packed + text + head) + (clips + 1) * time) + clips * _sound(config.audio_dim, dim, frames),
        self_attention=clips * sum(4 * count**2 for count in tokens_in) * dim,
        text_attention=4 * TEXT_LENGTH * tokens * dim,
        audio_attention=4 * SOUND_TOKENS * injected * dim,
    )


def _sound(audio_dim: int, dim: int, latent_frames: int) -> int:
    """Of the sound encoder: one global and four local paths, each halving its frames twice."""
    heard = HISTORY_FRAMES + FRAMES_PER_LATENT * latent_frames
    half = (heard - 1) // 2 + 1
    quarter = (half - 1) // 2 + 1
    quarter_dim, half_dim = dim // 4, dim // 2
    paths = NUM_AUDIO_TOKENS + 1
    first = TAPS * heard * audio_dim * quarter_dim
    second = TAPS * half * quarter_dim * half_dim
    third = TAPS * quarter * half_dim * dim
    return 2 * (paths * (first + second + third) + quarter * dim**2)
