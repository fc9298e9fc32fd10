"""Reading the golden files: the tensors that are stored, and those that a seeded generator draws again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

Case = Callable[[str], dict[str, Tensor]]  # what the fixture `model_case` is


def draw(generator: torch.Generator, row: dict[str, Any]) -> Tensor:
    """The next tensor of a stream: shift + scale * (normal or uniform numbers)."""
    numbers = (torch.rand if row.get("uniform") else torch.randn)(row["shape"], generator=generator)
    return row["shift"] + row["scale"] * numbers


def sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def drawn(streams: list[dict[str, Any]]) -> dict[str, Tensor]:
    """All tensors of a recipe, each compared with the digest of the original."""
    tensors = {}
    for stream in streams:
        generator = torch.Generator().manual_seed(stream["seed"])
        for row in stream["draws"]:
            tensor = draw(generator, row)
            assert sha256(tensor) == row["sha256"], (
                f"{row['name']}: torch {torch.__version__} draws other numbers here for seed {stream['seed']} than the torch that made the "
                "golden vectors. The model is not at fault: store this tensor (compact.py) instead of drawing it."
            )
            tensors[row["name"]] = tensor
    return tensors


def load_case(folder: Path, name: str) -> dict[str, Tensor]:
    """The whole content of one file of the full vectors."""
    stored = folder / f"{name}.safetensors"
    recipe = json.loads((folder / "recipe.json").read_text())
    return drawn(recipe[name]) | (load_file(stored) if stored.is_file() else {})


def load_facts(folder: Path, name: str) -> dict[str, Any]:
    """The metadata of one file: flags of the call, or sizes."""
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["case"])
