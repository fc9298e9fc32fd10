"""The real network at toy size, for tests that need one."""

from typing import Any

import torch

from ray_s2v.model.transformer import WanS2VTransformer3DModel

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "audio_dim": 8,
    "audio_inject_layers": (0, 1, 3),
    "ffn_dim": 32,
    "num_layers": 4,
    "num_weighted_avg_layers": 5,
}


def tiny_network() -> WanS2VTransformer3DModel:
    """The same weights at each call; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WanS2VTransformer3DModel(**TINY).eval()
