"""Loading of a frozen network: safetensors only, every tensor present, eval mode, no gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ray_s2v.location import find_place
from ray_s2v.schema import ConfigError

MAX_NAMES = 8  # missing tensors that the message names


def load_frozen(model_class: Any, place: str | Path, device: str, dtype: torch.dtype, **config: Any) -> Any:
    """A network of `model_class` (diffusers or transformers) with the weights at `place`, on `device`, ready to encode.

    config: entries that replace those of the stored config.json. ConfigError if files or tensors are missing.
    """
    path, subfolder = find_place(place)
    try:
        model, info = model_class.from_pretrained(
            path, subfolder=subfolder, dtype=dtype, use_safetensors=True, output_loading_info=True, **config
        )
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:  # absent, damaged, of another shape, or too large
        raise ConfigError(f"{place}: cannot load {model_class.__name__}: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        named = ", ".join(missing[:MAX_NAMES]) + (", ..." if len(missing) > MAX_NAMES else "")
        raise ConfigError(f"{place}: {len(missing)} tensors of {model_class.__name__} are missing: {named}")
    return model.to(device).eval().requires_grad_(False)
