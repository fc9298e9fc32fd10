"""The 14B network's 1260 tensors, and the size of its LoRA, without its memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_s2v.model.lora import Layers, lora_config, with_lora
from ray_s2v.model.names import diffusers_name, official_name
from ray_s2v.model.transformer import WanS2VTransformer3DModel

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture(scope="module")
def key_map(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "key_map_14b.json").read_text())


def network_14b() -> WanS2VTransformer3DModel:
    with torch.device("meta"):
        return WanS2VTransformer3DModel()


def test_names_and_shapes(key_map: dict[str, Any]) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in network_14b().state_dict().items()}
    rows = key_map["tensors"]
    assert len(rows) == 1260
    assert shapes == {diffusers: shape for _, diffusers, shape in rows}
    assert shapes == {diffusers_name(official): shape for official, _, shape in rows}
    assert {official_name(name): shape for name, shape in shapes.items()} == {official: shape for official, _, shape in rows}
    assert all(diffusers_name(name) == name for name in shapes)


def test_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in network_14b().parameters()) == 16_295_755_609


def test_aliases(key_map: dict[str, Any]) -> None:
    aliases = key_map["aliases_of_diffusers_format"]
    assert len(aliases) == 5
    assert {diffusers_name(alias): alias for alias in aliases.values()} == aliases


@pytest.mark.parametrize(
    ("layers", "num_layers", "num_parameters"), [("all", 368, 60_293_120), ("blocks", 320, 52_428_800), ("audio_injector", 48, 7_864_320)]
)
def test_lora_at_rank_16(layers: Layers, num_layers: int, num_parameters: int) -> None:
    with torch.device("meta"):
        model = with_lora(network_14b(), lora_config(16, 16, 0.0, ATTENTION, layers), seed=0)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(name.endswith("lora_A.default.weight") for name in trainable) == num_layers
    assert len(trainable) == 2 * num_layers
    assert sum(parameter.numel() for parameter in trainable.values()) == num_parameters
