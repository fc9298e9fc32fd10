"""What a training step takes of a GPU's memory, and what must lie elsewhere for it to fit. Computed, before anything is loaded.

The working set is fitted to measurements (tests/gpu/results): live at once in a block's pullback are about 28 bytes of each token and
channel of the residual stream, and 6 of the feed-forward's hidden channels; float8 takes a fifth more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray_s2v.model.fused.frozen import BUFFERS
from ray_s2v.model.fused.precision import BasePrecision, narrow_layers
from ray_s2v.model.fused.stash import AHEAD
from ray_s2v.schema import ConfigError

GIB = 2**30
BYTES = {"bf16": 2.0, "fp32": 4.0, "fp8": 1.0, "int8": 1.0 + 4 / 128}  # of a weight, with its scales
WORKING = {"bf16": 1.0, "fp32": 1.6, "fp8": 1.2, "int8": 1.0}
AS_WRITTEN = 3.3  # times the working set where nothing is fused: counted on a CPU, 2.7, and 3.3 with chunks of the feed-forward
ADAPTER_BYTES = 32  # of a trained parameter: itself, gradient, Adam's moments, and DeepSpeed's copy and buckets
USABLE = 0.95  # of a GPU; the rest is lost between the allocator's blocks
# What goes to host memory and comes back leaves holes of all sizes in the GPU's; torch then joins them. For a process's environment:
# read when it first touches its GPU.
ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
RESERVE = 1.0  # GiB, for the driver, kernels' workspaces and what the allocator cannot use


@dataclass(frozen=True)
class Need:
    """Bytes of each part."""

    outside: float  # all weights but those that can stream, and the adapter with its optimizer
    blocks: float  # weights that can stream
    group: float  # of them, the largest that streams at once
    inputs: tuple[float, ...]  # what each block and injector is given, which it keeps for the backward pass; in their order
    attention: tuple[float, ...]  # what each block may keep besides; 0 for injectors
    feed_forward: float  # what each block may keep besides that; 0 where chunks of tokens go through one after the other
    working: float
    shards_on_host: float = 0.0  # of ZeRO-3, of one rank

    @classmethod
    def of(
        cls,
        network: Any,
        precision: BasePrecision,
        tokens: Sequence[int],
        blocks_per_group: int,
        feed_forward_chunks: int,
        *,
        compiled: bool,
    ) -> Need:
        """network: a WanS2VTransformer3DModel with LoRA; it may be without memory.

        tokens: that each block sees of one worker's largest batch.
        """
        up = network.blocks[0].ffn.net[0].proj
        wide = BYTES["fp32" if precision == "fp32" else "bf16"]
        trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
        total = sum(p.numel() for p in network.parameters()) - trainable
        narrow = sum(layer.weight.numel() for layer in narrow_layers(network))
        largest = -(-narrow // len(network.blocks)) * (1 + len(network.audio_injector.injector) / len(network.blocks))
        most, routed = max(tokens), min(tokens) < max(tokens)
        given = [4.0 * count * up.in_features for count in tokens]
        attention = [wide * count * up.in_features + 4 * count * network.config.num_attention_heads for count in tokens]
        not_fused = 1.0 if compiled else AS_WRITTEN
        units = [(i, is_block) for i in range(len(network.blocks)) for is_block in [True] + [False] * (i in network.injector_of_block)]
        return cls(
            outside=(total - narrow) * wide + trainable * ADAPTER_BYTES,
            blocks=narrow * BYTES[precision],
            group=blocks_per_group * largest * BYTES[precision],
            inputs=tuple(given[i] for i, _ in units),
            attention=tuple(attention[i] if is_block else 0.0 for i, is_block in units),
            feed_forward=wide * most * up.out_features if feed_forward_chunks == 1 else 0.0,
            # What skips a route waits beside it.
            working=most * (28 * up.in_features + 6 * up.out_features / feed_forward_chunks) * WORKING[precision] * not_fused
            + routed * max(given),
        )


@dataclass(frozen=True)
class Room:
    """What there is for one rank."""

    gpu_gib: float
    host_gib: float = math.inf  # of the machine, for all its ranks together
    ranks: int = 1  # of the machine; what streams is in its memory once
    disk: bool = False  # what streams is on a disk


@dataclass(frozen=True)
class Arrangement:
    """Where things lie, and what that takes of one rank's GPU, and of its machine's memory and disk for all ranks there."""

    stream: bool
    units_on_host: int
    blocks_without_attention: int
    blocks_with_feed_forward: int
    gpu_gib: float
    host_gib: float
    disk_gib: float = 0.0

    def __str__(self) -> str:
        parts = [f"about {self.gpu_gib:.1f} GiB of the GPU" if self.gpu_gib else "the CPU's memory"]
        if self.host_gib:
            parts.append(f"{self.host_gib:.1f} GiB of host memory")
        if self.disk_gib:
            parts.append(f"{self.disk_gib:.1f} GiB of a disk")
        if self.stream:
            parts.append(f"blocks stream from {'the disk' if self.disk_gib else 'host memory'}")
        if self.units_on_host:
            parts.append(f"{self.units_on_host} blocks and injectors keep their activations in host memory")
        if self.blocks_with_feed_forward:
            parts.append(f"{self.blocks_with_feed_forward} blocks do not compute their feed-forward again")
        if self.blocks_without_attention:
            parts.append(f"{self.blocks_without_attention} blocks compute attention again")
        return ", ".join(parts)


def arranged(
    need: Need,
    room: Room,
    checkpointing: Literal["auto", "selective", "full"],
    stream: Literal["auto", True, False],
    activations: Literal["auto", True, False],
) -> Arrangement:
    """The arrangement that computes least again, and then moves least, and fits. Raises ConfigError, with the figures, if none does.

    Host memory comes before computing attention again, streaming too: the way there and back is shorter than the computation beside it.
    """
    units, blocks = len(need.inputs), sum(size > 0 for size in need.attention)
    again = {"auto": range(blocks + 1), "selective": range(1), "full": range(blocks, blocks + 1)}[checkpointing]
    # The last unit's would go away only to come back at once.
    away = {"auto": range(units), True: range(units - 1, units), False: range(1)}[activations]
    streams = (False, True) if stream == "auto" else (stream,)
    usable, tried = room.gpu_gib * USABLE, []
    for arrangement in (_taking(need, room, *choice) for choice in itertools.product(again, streams, away)):
        if arrangement.gpu_gib <= usable and arrangement.host_gib <= room.host_gib:
            return _with_feed_forward(need, arrangement, usable) if checkpointing == "auto" else arrangement
        tried.append(arrangement)
    raise _does_not_fit(tried, room, {"offload.blocks": stream, "offload.activations": activations, "model.checkpointing": checkpointing})


def _does_not_fit(tried: Sequence[Arrangement], room: Room, settings: dict[str, Any]) -> ConfigError:
    usable = room.gpu_gib * USABLE
    freer = [f"{name} auto" for name, value in settings.items() if value != "auto"]
    if on_gpu := [a.host_gib for a in tried if a.gpu_gib <= usable]:
        what = (
            f"{min(on_gpu):.1f} GiB of host memory beside the GPU's {room.gpu_gib:.1f}, and there are {room.host_gib:.1f} for the "
            f"{room.ranks} workers of a machine"
        )
        help_ = ["more memory", "fewer workers on a machine", *freer]
        if settings["offload.blocks"] is not False and not room.disk:
            help_.append("offload.disk_path")
        help_.append("training.host_memory_gib where a machine has more than it shows")
    else:
        what = f"{min(a.gpu_gib for a in tried):.1f} GiB of GPU memory, and there are {usable:.1f}"
        help_ = ["a lower resolution, num_frames or training.batch_size", "a higher model.feed_forward_chunks", *freer]
    return ConfigError(f"a step of the largest bucket takes at least {what}. What helps: {'; '.join(help_)}")


def _taking(need: Need, room: Room, again: int, streams: bool, away: int) -> Arrangement:
    """What it takes if the first `again` blocks do not keep their attention, and the first `away` units keep on the host."""
    with_attention = [index for index, size in enumerate(need.attention) if size][again:]
    kept = [size + need.attention[index] * (index in with_attention) for index, size in enumerate(need.inputs)]
    weights = 2 * need.group if streams else need.blocks
    # Beside what is used, what comes next is on its way.
    gpu = need.outside + weights + need.working + sum(kept[away:]) + ((AHEAD + 1) * max(kept) if away else 0)
    on_disk = streams and room.disk
    once = need.blocks if streams and not room.disk else 0
    host = once + room.ranks * (sum(kept[:away]) + need.shards_on_host + (BUFFERS * need.group if on_disk else 0))
    return Arrangement(streams, away, again, 0, gpu / GIB + RESERVE, host / GIB, need.blocks / GIB if on_disk else 0.0)


def _with_feed_forward(need: Need, arrangement: Arrangement, usable: float) -> Arrangement:
    """The room that is left, used for as many blocks' feed-forward as fit."""
    if not need.feed_forward:
        return arrangement
    blocks = sum(size > 0 for size in need.attention)
    count = min(blocks, int((usable - arrangement.gpu_gib) * GIB // need.feed_forward))
    return replace(arrangement, blocks_with_feed_forward=count, gpu_gib=arrangement.gpu_gib + count * need.feed_forward / GIB)
