"""A tiny S2V network with random weights, in the official checkpoint's files and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ray_s2v.model.checkpoint import WEIGHTS
from ray_s2v.model.names import official_name
from ray_s2v.model.transformer import WanS2VTransformer3DModel

NUM_SHARDS = 2
# The official config.json's keys with small numbers; head size 16 splits the rotary pairs 4/2/2.
CONFIG = {
    "_class_name": "WanModel_S2V",
    "model_type": "s2v",
    "dim": 64,
    "ffn_dim": 128,
    "num_heads": 4,
    "num_layers": 4,
    "in_dim": 16,
    "out_dim": 16,
    "freq_dim": 64,
    "text_dim": 64,
    "text_len": 512,
    "eps": 1e-6,
    "cond_dim": 16,
    "audio_dim": 32,
    "num_audio_token": 4,
    "enable_adain": True,
    "adain_mode": "attn_norm",
    "audio_inject_layers": [0, 2],
    "zero_init": True,
    "zero_timestep": True,
    "enable_framepack": True,
    "framepack_drop_mode": "padd",
    "add_last_motion": True,
    "enable_motioner": False,
    "enable_tsm": False,
    "trainable_token_pos_emb": False,
    "motion_token_num": 1024,
}


def save_transformer(folder: Path, seed: int = 0) -> None:
    """A network with random weights, as `save_checkpoint` leaves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WanS2VTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=16,
            text_dim=64,
            freq_dim=64,
            audio_dim=32,
            audio_inject_layers=(0, 2),
            ffn_dim=128,
            num_layers=4,
        )
    save_checkpoint(model, CONFIG, folder, NUM_SHARDS)


def save_checkpoint(model: WanS2VTransformer3DModel, config: dict[str, Any], folder: Path, num_shards: int) -> None:
    """config.json, so many shards and their index, as the official repository holds them, in bf16."""
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tensors = {official_name(name): tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file = f"{WEIGHTS}-{shard + 1:05}-of-{num_shards:05}.safetensors"
        held = names[shard::num_shards]
        save_file({name: tensors[name] for name in held}, folder / file)
        weight_map |= dict.fromkeys(held, file)
    index = {"metadata": {"total_size": sum(t.numel() * 2 for t in tensors.values())}, "weight_map": weight_map}
    (folder / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
