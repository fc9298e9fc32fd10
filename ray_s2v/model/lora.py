"""LoRA on the network by PEFT: where it goes, and adapter folders that PEFT and diffusers load."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_s2v.schema import ConfigError

PREFIX = "base_model.model"  # of every name in an adapter that PEFT writes
ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MAX_RANK = 4096  # that no LoRA comes near
MAX_NAMES = 8  # of tensors that a message names

Layers = Literal["all", "blocks", "audio_injector"]
_LAYERS = {"all": r"(.*\.)?", "blocks": r"blocks\..*\.", "audio_injector": r"audio_injector\..*\."}


def target_pattern(targets: Sequence[str], layers: Layers) -> str:
    """The expression that the names of adapted layers match as a whole."""
    return rf"{_LAYERS[layers]}({'|'.join(map(re.escape, targets))})"


def check_targets(model: nn.Module, targets: Sequence[str], layers: Layers) -> None:
    """Raises ConfigError naming each target that no linear layer of the chosen part is called."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    unknown = [target for target in targets if not any(re.fullmatch(target_pattern([target], layers), name) for name in linear)]
    if unknown:
        endings = sorted({".".join(name.split(".")[-2:]) if name.split(".")[-1].isdigit() else name.split(".")[-1] for name in linear})
        raise ConfigError(
            f"lora.targets: no linear layer of lora.layers = {layers} ends in {', '.join(unknown)}; there are {', '.join(endings)}"
        )


def lora_config(rank: int, alpha: float, dropout: float, targets: list[str], layers: Layers) -> LoraConfig:
    """PEFT's configuration for the linear layers whose names end in one of `targets`, in the chosen part of the network."""
    # PEFT types alpha as an integer; it only ever divides it by the rank.
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_pattern(targets, layers))


def with_lora(model: nn.Module, config: LoraConfig, seed: int, device: torch.device | None = None) -> PeftModel:
    """The model wrapped by PEFT: everything frozen but the adapter, which is float32 and the same on every worker.

    device: of the adapter; where each layer is when None. Raises ConfigError where the configuration fits no layer.
    """
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            wrapped = get_peft_model(model, config)
    except (ValueError, TypeError, re.error) as error:
        raise ConfigError(f"LoRA cannot be put on this network: {' '.join(str(error).split())[:200]}") from error
    for parameter in wrapped.parameters():
        if parameter.requires_grad and device is not None:
            parameter.data = parameter.data.to(device)
    return wrapped


def adapter_name(parameter: str) -> str:
    """The name that PEFT's files give to a trainable parameter of a PeftModel."""
    return parameter.replace(".default.", ".")


def fill_adapter(model: PeftModel, tensors: dict[str, Tensor]) -> None:
    """Gives the adapter these values, by the names of PEFT's files. Raises ConfigError where names or shapes differ."""
    there = {adapter_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrong = [f"{name} is missing" for name in there.keys() - tensors.keys()]
    wrong += [f"{name} is for no layer of this network" for name in tensors.keys() - there.keys()]
    shared = [(name, there[name].shape, tensors[name].shape) for name in there.keys() & tensors.keys()]
    wrong += [f"{name} is {tuple(found)}, not {tuple(wanted)}" for name, wanted, found in shared if wanted != found]
    if wrong:
        raise ConfigError("\n".join([f"the adapter does not fit the network: {len(wrong)} tensors, such as", *sorted(wrong)[:MAX_NAMES]]))
    with torch.no_grad():
        for name, parameter in there.items():
            parameter.copy_(tensors[name])


def save_adapter(folder: Path, tensors: dict[str, Tensor], config: LoraConfig) -> None:
    """Writes `adapter_model.safetensors` and `adapter_config.json` into an existing folder.

    The configuration is in the file's header as well, where diffusers looks for it.
    """
    config.save_pretrained(str(folder))
    described = json.loads((folder / CONFIG_FILE).read_text())
    header = {"format": "pt", "lora_adapter_metadata": json.dumps({f"{PREFIX}.{key}": value for key, value in described.items()})}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_FILE, metadata=header)


def load_adapter(folder: Path) -> tuple[dict[str, Tensor], LoraConfig]:
    """The tensors (PEFT's names) and the configuration of an adapter folder. Raises ConfigError where it holds none."""
    if not (folder / CONFIG_FILE).is_file():  # or PEFT would ask the hub
        raise ConfigError(f"{folder} holds no {CONFIG_FILE}")
    try:
        tensors, config = load_file(folder / ADAPTER_FILE), LoraConfig.from_pretrained(str(folder))
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{folder}: no adapter can be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, LoraConfig) or type(config.r) is not int or not 0 < config.r <= MAX_RANK or config.megatron_config:
        raise ConfigError(f"{folder}: {CONFIG_FILE} is not of a LoRA of rank 1 to {MAX_RANK} as ray_s2v trains them")
    return tensors, config
