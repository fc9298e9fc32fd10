"""Reading a checkpoint of the network: any of the three layouts in circulation, strictly."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ray_s2v.location import local_folder
from ray_s2v.model.names import diffusers_name
from ray_s2v.schema import ConfigError

WEIGHTS = "diffusion_pytorch_model"
MAX_SIZE = (1 << 20, 1000)  # of any number in a configuration, and of its layers, which are built one by one
Model = TypeVar("Model", bound=ModelMixin)

# Official keys that say what ours says otherwise; and official keys that must have this value, since nothing else is built.
_OFFICIAL_KEYS = {
    "num_heads": "num_attention_heads",
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "cond_dim": "pose_dim",
}
_OFFICIAL_REQUIRED = {
    "model_type": "s2v",
    "num_audio_token": 4,
    "enable_motioner": False,
    "enable_tsm": False,
    "trainable_token_pos_emb": False,
    "window_size": [-1, -1],
    "text_len": 512,
    "qk_norm": True,
}


def checkpoint_folder(place: str) -> Path:
    """The folder that holds the network's config.json and weights: `place` itself (official layout) or its `transformer`."""
    folder = local_folder(place, patterns=["config.json", f"{WEIGHTS}*", "transformer/*"])
    folder = folder / "transformer" if (folder / "transformer" / "config.json").is_file() else folder
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} has no config.json, nor has its folder transformer: is it a Wan 2.2 S2V checkpoint?")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Our configuration's keys from an official or a diffusers config.json; keys that are no setting of ours stay in.

    Raises ConfigError, naming the key, where the file describes a network that is not built here.
    """
    stored = _read_json(folder / "config.json")
    if "dim" not in stored:
        return {key: value for key, value in stored.items() if not key.startswith("_")}
    if missing := sorted({"num_heads"} - stored.keys()):
        raise ConfigError(f"{folder / 'config.json'} says nothing of {', '.join(missing)}")
    wrong = [f"{k} is {stored[k]!r}, must be {v!r}" for k, v in _OFFICIAL_REQUIRED.items() if stored.get(k, v) != v]
    if wrong:
        raise ConfigError(f"{folder / 'config.json'}: this is another configuration than Wan 2.2 S2V 14B's: " + "; ".join(wrong))
    config = {_OFFICIAL_KEYS.get(k, k): v for k, v in stored.items() if k not in _OFFICIAL_REQUIRED and not k.startswith("_")}
    dim = config.pop("dim")
    if not all(type(number) is int and number > 0 for number in (dim, config["num_attention_heads"])):
        raise ConfigError(f"{folder / 'config.json'}: dim and num_heads must be whole numbers above 0")
    return {**config, "attention_head_dim": dim // config["num_attention_heads"]}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is no readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file} holds no settings by their names")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder: those of its index, or the only one, or all that it holds."""
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    if index.is_file():
        names = _read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) and Path(name).name == name for name in names.values()):
            raise ConfigError(f"{index}: its weight_map must name files of its own folder")
        files = sorted({folder / name for name in names.values()})
    else:
        files = sorted(folder.glob(f"{WEIGHTS}*.safetensors")) or sorted(folder.glob("*.safetensors"))
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise ConfigError(f"{folder}: weights are missing: {', '.join(missing) or '*.safetensors'}")
    return files


def check_names(expected: dict[str, torch.Size], found: dict[str, torch.Size], folder: Path) -> None:
    """Raises ConfigError naming every tensor that is missing, not expected, or of another shape."""
    wrong = {
        "missing": sorted(expected.keys() - found.keys()),
        "not expected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {tuple(found[name])} instead of {tuple(expected[name])}"
            for name in sorted(expected.keys() & found.keys())
            if expected[name] != found[name]
        ],
    }
    if any(wrong.values()):
        listed = (f"{len(names)} tensors {what}: {', '.join(names)}" for what, names in wrong.items() if names)
        raise ConfigError(f"{folder} does not hold this network's weights: " + "; ".join(listed))


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Our name and the tensor, one after the other. The tensor is a view of the file, which all processes of a machine share."""
    for file in files:
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 safe_open is no dict
                yield diffusers_name(name), shard.get_tensor(name)


def stored_shapes(files: list[Path]) -> dict[str, torch.Size]:
    """Our names and the shapes of all stored tensors, from the headers alone. Raises ConfigError for a damaged file."""
    shapes: dict[str, torch.Size] = {}
    for file in files:
        try:
            # As numpy: opened for torch, a shard asks for as much free memory as it is long.
            with safe_open(file, "np") as shard:
                found = {name: torch.Size(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ConfigError(f"{file} is damaged: {error}") from error
        for name, shape in found.items():
            if diffusers_name(name) in shapes:
                raise ConfigError(f"{file}: {name} and another tensor of the checkpoint are both {diffusers_name(name)}")
            shapes[diffusers_name(name)] = shape
    return shapes


def empty_model(model_class: type[Model], folder: Path) -> Model:
    """The network of a folder's configuration without memory behind it. Keys of the file that are no setting are ignored."""
    settings = inspect.signature(model_class.__init__).parameters
    config = {key: value for key, value in read_config(folder).items() if key in settings}
    if too_large := [key for key, value in config.items() if isinstance(value, int) and abs(value) > MAX_SIZE[key == "num_layers"]]:
        raise ConfigError(f"{folder / 'config.json'}: no network can have such {', '.join(too_large)}")
    try:
        with torch.device("meta"):
            return model_class.from_config(config)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{folder / 'config.json'} describes a network that cannot be built: {reason}") from error


def check_checkpoint(model_class: type[Model], place: str) -> Model:
    """The network without memory behind it; ConfigError unless the checkpoint holds exactly its tensors. Reads headers only."""
    folder = checkpoint_folder(place)
    model = empty_model(model_class, folder)
    check_names({name: p.shape for name, p in model.state_dict().items()}, stored_shapes(weight_files(folder)), folder)
    return model


def load_model(model_class: type[Model], place: str, dtype: torch.dtype | None, device_of: Callable[[str], torch.device]) -> Model:
    """The network, each tensor read straight to the device that `device_of` says for its name; in eval mode.

    dtype: of all weights but those that stay in float32; None keeps what is stored. What stays on the CPU and as it is stored takes
    no memory: it remains in the file until it is used.
    """
    folder = checkpoint_folder(place)
    files = weight_files(folder)
    model = empty_model(model_class, folder)
    check_names({name: p.shape for name, p in model.state_dict().items()}, stored_shapes(files), folder)
    exact = set(model_class._keep_in_fp32_modules)
    state = {}
    for name, tensor in _tensors(files):
        state[name] = tensor.to(device_of(name), torch.float32 if exact & set(name.split(".")) else dtype or tensor.dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()
