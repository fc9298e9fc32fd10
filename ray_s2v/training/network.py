"""The network as a worker trains it: loaded to where the job wants its weights, with LoRA, in its fast form where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from peft import LoraConfig, PeftModel

from ray_s2v.config.job import Job
from ray_s2v.model.checkpoint import checkpoint_folder, empty_model
from ray_s2v.model.fused.attention import fastest, kernels
from ray_s2v.model.fused.frozen import check_disk
from ray_s2v.model.fused.functions import AS_WRITTEN, compiled
from ray_s2v.model.fused.fuse import FastForm, fuse, obstacles
from ray_s2v.model.fused.memory import GIB, Arrangement
from ray_s2v.model.fused.precision import narrow, narrow_layers, placeholder
from ray_s2v.model.lora import lora_config, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.ranks import Machine
from ray_s2v.schema import Bucket, ConfigError
from ray_s2v.training.arrangement import arrangement_for, check_fewest, memory_gib, room_of

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": torch.bfloat16, "int8": torch.bfloat16}
CPU, META = torch.device("cpu"), torch.device("meta")


def job_lora(job: Job) -> LoraConfig:
    """PEFT's configuration of the job's adapter."""
    settings = job.lora
    return lora_config(settings.rank, settings.alpha or settings.rank, settings.dropout, settings.targets, settings.layers)


def why_plain(job: Job, outline: PeftModel) -> str:
    """Why the fast form cannot compute what the job wants; empty if it can.

    outline: the network with its adapter; it may be without memory. Raises ConfigError where the job wants what only the fast form has.
    """
    reasons = obstacles(outline.base_model.model)
    if job.model.checkpointing == "none":
        reasons.append("model.checkpointing none")
    wanted = {
        f"model.base_precision {job.model.base_precision}": job.model.base_precision in ("fp8", "int8"),
        f"model.attention {job.model.attention}": job.model.attention != "auto",
        "model.checkpointing selective": job.model.checkpointing == "selective",
        "model.compile": job.model.compile is True,
        "model.feed_forward_chunks": job.model.feed_forward_chunks > 1,
        "offload.blocks": job.offload.blocks is True,
        "offload.blocks_per_group": job.offload.blocks_per_group > 1,
        "offload.disk_path": job.offload.disk_path != "",
        "offload.activations": job.offload.activations is True,
    }
    if reasons and any(wanted.values()):
        listed = ", ".join(setting for setting, is_wanted in wanted.items() if is_wanted)
        raise ConfigError(f"{listed}: needs the fast form of the network, which does not know {', '.join(reasons)}")
    return ", ".join(reasons)


class Weights(Protocol):
    """Where a network comes from."""

    def outline(self) -> WanS2VTransformer3DModel:
        """The network without memory behind it."""

    def read(self, dtype: torch.dtype, device_of: Callable[[str], torch.device]) -> WanS2VTransformer3DModel:
        """The network, each tensor where `device_of` says for its name."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights in a folder or at the hub."""

    path: str

    def outline(self) -> WanS2VTransformer3DModel:
        return empty_model(WanS2VTransformer3DModel, checkpoint_folder(self.path))

    def read(self, dtype: torch.dtype, device_of: Callable[[str], torch.device]) -> WanS2VTransformer3DModel:
        return WanS2VTransformer3DModel.from_pretrained(self.path, torch_dtype=dtype, device=device_of)


def network_for_training(
    job: Job, config: LoraConfig, weights: Weights, device: torch.device, largest: Bucket, note: Callable[[str], object]
) -> PeftModel:
    """The network with a fresh adapter, on `device` or beside it as the job's settings and the device's memory say.

    config: of the adapter. largest: the bucket of which a batch takes most. Tells `note` how long loading took and what lies where.
    Raises ConfigError.
    """
    started = time.monotonic()
    _check_card(job, device)
    gpu_gib = memory_gib(job, device)
    if gpu_gib is not None:  # taking more is an error, not another process's loss
        torch.cuda.set_per_process_memory_fraction(gpu_gib * GIB / torch.cuda.get_device_properties(device).total_memory, device)
    machine = Machine.of_this_rank()
    outline = with_lora(weights.outline(), config, job.run.seed)
    plain = why_plain(job, outline)
    room = room_of(job, gpu_gib, machine)
    if not plain:
        check_fewest(job, outline, room, largest)
    workers = dist.get_world_size() if dist.is_initialized() else 1
    arrangement = None if plain else arrangement_for(job, outline, room, largest, workers)
    streams = bool(arrangement and arrangement.stream)
    if job.offload.disk_path and arrangement and streams and machine.is_first:
        check_disk(Path(job.offload.disk_path), arrangement.disk_gib * GIB)
    network = _read(job, weights, device, streams, machine)
    # Before rounding: PEFT draws an adapter in the dtype of the weight that it is for.
    model = with_lora(network, config, job.run.seed, device).train()
    _narrow(job, network, device, streams, machine)
    if not streams and job.zero.stage < 3:
        network.to(device)
    if arrangement:
        fuse(network, _fast_form(job, network, device, arrangement, machine, note), device)
    elif job.model.checkpointing != "none":
        network.enable_gradient_checkpointing()
    how = f"it runs in its plain, slower form: {plain}" if plain else f"a step takes {arrangement}"
    note(f"the network was loaded in {time.monotonic() - started:.0f} s; {how}")
    return model


def _read(job: Job, weights: Weights, device: torch.device, streams: bool, machine: Machine) -> WanS2VTransformer3DModel:
    """The network; what will be rounded, streamed or sharded stays in the file until it is its turn.

    What streams is read once on a machine: the other ranks have tensors without memory, of which they need the shapes.
    """
    by_turns = job.model.base_precision in ("fp8", "int8") or job.zero.stage == 3 or streams
    home = META if streams and not machine.is_first else CPU if by_turns else device
    network = weights.read(
        DTYPES[job.model.base_precision],
        lambda name: home if name.startswith(("blocks.", "audio_injector.injector.")) else device,
    )
    absent = {name: placeholder(tensor) for name, tensor in network.state_dict().items() if tensor.device == META}
    network.load_state_dict(absent, strict=False, assign=True)
    return network


def _narrow(job: Job, network: WanS2VTransformer3DModel, device: torch.device, streams: bool, machine: Machine) -> None:
    """Rounds the large weights, a layer at a time, to where they are kept."""
    where = META if streams and not machine.is_first else device
    home = CPU if streams else device
    for layer in narrow_layers(network):
        narrow(layer, job.model.base_precision, where, home)


def _check_card(job: Job, device: torch.device) -> None:
    """Raises ConfigError for what this card lacks, before anything is loaded."""
    if device.type == "cpu":
        return
    name = torch.cuda.get_device_name(device)
    if job.model.base_precision == "fp8" and not torch.version.hip and torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigError(f"model.base_precision fp8: {name} has no float8 products; give int8 or bf16")
    properties = torch.cuda.get_device_properties(device)
    if job.model.base_precision == "fp8" and torch.version.hip and not properties.gcnArchName.startswith("gfx94"):
        raise ConfigError(f"model.base_precision fp8: it is in MI300's format, which {name} has not; give int8 or bf16")
    total = properties.total_memory / GIB
    if job.training.gpu_memory_gib and job.training.gpu_memory_gib > total:
        raise ConfigError(f"training.gpu_memory_gib {job.training.gpu_memory_gib:g}: {name} has {total:.1f}")


def _fast_form(
    job: Job,
    network: WanS2VTransformer3DModel,
    device: torch.device,
    arrangement: Arrangement,
    machine: Machine,
    note: Callable[[str], object],
) -> FastForm:
    model, dtype = job.model, DTYPES[job.model.base_precision]
    candidates = kernels(model.attention, on_amd=torch.version.hip is not None)
    compiles = device.type != "cpu" if model.compile == "auto" else model.compile
    return FastForm(
        functions=compiled(note, is_wanted=model.compile is True) if compiles else AS_WRITTEN,
        kernel=fastest(device, dtype, network.config.attention_head_dim, candidates),
        feed_forward_chunks=model.feed_forward_chunks,
        blocks_per_group=job.offload.blocks_per_group if arrangement.stream else None,
        weights_on_disk=Path(job.offload.disk_path) if job.offload.disk_path else None,
        machine=machine,
        units_on_host=arrangement.units_on_host,
        blocks_without_attention=arrangement.blocks_without_attention,
        blocks_with_feed_forward=arrangement.blocks_with_feed_forward,
    )
