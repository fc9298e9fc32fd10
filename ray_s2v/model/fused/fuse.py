"""Turns a network that PEFT has wrapped into its fast form, in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from ray_s2v.model.fused.attention import Kernel
from ray_s2v.model.fused.block import Plan
from ray_s2v.model.fused.frozen import InMemory, OnDisk
from ray_s2v.model.fused.functions import Functions
from ray_s2v.model.fused.gather import ADAPTER, adapters, attention_weights, block_weights
from ray_s2v.model.fused.residence import Resident, Streamed
from ray_s2v.model.fused.stash import Stash
from ray_s2v.model.fused.units import Unit
from ray_s2v.ranks import ALONE, Machine


@dataclass(frozen=True)
class FastForm:
    """How the fast form runs and where it keeps things."""

    functions: Functions
    kernel: Kernel  # of attention
    feed_forward_chunks: int = 1
    blocks_per_group: int | None = None  # frozen weights stream to the GPU, so many blocks at a time; None: they stay there
    weights_on_disk: Path | None = None  # they stream from a file in this folder; None: from host memory
    machine: Machine = ALONE  # its ranks share what streams
    units_on_host: int = 0  # so many blocks and injectors, from the first, keep what the backward pass needs in host memory
    blocks_without_attention: int = 0  # so many blocks, from the first, compute self-attention again instead of keeping its output
    blocks_with_feed_forward: int = 0  # so many blocks, from the last, keep what enters the feed-forward's GELU on the GPU


def obstacles(network: nn.Module) -> list[str]:
    """What of the network only its modules can compute: empty if the fast form can."""
    found = []
    for name, module in network.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        dropout = module.lora_dropout[ADAPTER]
        if isinstance(dropout, nn.Dropout) and dropout.p > 0:
            found.append("lora.dropout")
        if module.lora_variant:
            found.append("a variant of LoRA")
        if name.split(".")[0] not in ("blocks", "audio_injector") or "adain" in name:
            found.append(f"LoRA on {name}")
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    factors = {id(part.weight) for layer in layers for parts in (layer.lora_A, layer.lora_B) for part in parts.values()}
    found += [f"{name} is trained" for name, p in network.named_parameters() if p.requires_grad and id(p) not in factors]
    return sorted(set(found))


def fuse(network: Any, form: FastForm, device: torch.device) -> None:
    """Blocks and injectors of a WanS2VTransformer3DModel run by `form` from now on, with LoRA as PEFT has put it there."""
    assert not obstacles(network)
    assert not form.blocks_with_feed_forward or form.feed_forward_chunks == 1
    injector_of_block = network.injector_of_block
    units: list[tuple[int, Any]] = []  # block number and module, in the order in which they run
    for index, block in enumerate(network.blocks):
        units.append((index, block))
        if index in injector_of_block:
            units.append((index, network.audio_injector.injector[injector_of_block[index]]))
    weights = [block_weights(m) if m is network.blocks[index] else attention_weights(m) for index, m in units]
    trained = [adapters(w) for w in weights]
    if form.blocks_per_group is None:
        residence: Resident | Streamed = Resident(weights)
    else:
        count = -(-len(network.blocks) // form.blocks_per_group)
        groups = [[p for p, (index, _) in enumerate(units) if index // form.blocks_per_group == group] for group in range(count)]
        store = OnDisk(form.weights_on_disk, device, form.machine) if form.weights_on_disk else InMemory(form.machine)
        residence = Streamed(weights, groups, store, device)
    stash = Stash(form.units_on_host)
    constants = Plan(0, network.config.num_attention_heads, network.config.eps, form.kernel, form.feed_forward_chunks)
    of_injectors = []
    for position, (index, module) in enumerate(units):
        keep_attention = index >= form.blocks_without_attention
        keep_feed_forward = index >= len(network.blocks) - form.blocks_with_feed_forward
        unit = Unit(position, trained[position], form.functions, residence, stash, constants, keep_attention, keep_feed_forward)
        if module is network.blocks[index]:
            module.unit = unit
        else:
            of_injectors.append(unit)
    network.audio_injector.run_by(of_injectors)
