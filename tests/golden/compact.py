"""Makes tests/golden/data from the full vectors: `python -m tests.golden.compact FOLDER`, run once.

The full vectors (23 MB) were made in float32 on CPU with the official Wan 2.2 S2V code, transformers 4.51.3 and diffusers'
AutoencoderKLWan; data/README.md is their description. Inputs and weights of model_a are draws of seeded CPU generators, so
only seed, order, shape, scale and digest of each are kept (recipe.json), and every tensor drawn again is compared here with
the original, bit for bit. The rotary tables repeat few values and are kept compressed. The rest is copied.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .vectors import draw, drawn, load_case, sha256

DATA = Path(__file__).parent / "data"
COPIED = ["README.md", "audio_bucket.json", "audio_bucket.safetensors", "key_map_14b.json", "rope_motion_positions.json"]
COPIED_FOLDERS = ["vae_tiny", "wav2vec_tiny"]
WEIGHTS_SEED = 1001
INPUTS = ["in.x", "in.ref_latents", "in.motion_latents", "in.cond_states", "in.audio_input", "in.context.0", "in.context.1"]
INJECTION = [f"{label}.{name}" for label in ("normal", "small") for name in ("hidden", "audio_global", "audio_local")]
# Per file the generators' seeds and what each draws, in order; names that a file lacks are skipped.
STREAMS = {
    "first_clip": [(11, INPUTS)],
    "continuation": [(12, INPUTS)],
    "continuation_last1": [(12, INPUTS)],
    "continuation_last0": [(12, INPUTS)],
    "odd_size": [(13, INPUTS)],
    "short_motion": [(14, INPUTS)],
    "batch2": [(15, INPUTS)],
    "batch2_first_clip": [(16, INPUTS)],
    "trace": [(17, INPUTS)],
    "gradients": [(18, INPUTS), (19, ["target"])],
    "audio_encoder": [(19, [f"T{length}.in" for length in (1, 4, 21, 93)])],
    "audio_injection": [(25, INJECTION)],
}


def recipe_row(name: str, tensor: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """How the generator's next numbers become this tensor; raises where no known way gives it bit for bit."""
    start = generator.get_state()
    fan_in = tensor[0].numel()
    scales = [1.0, fan_in**-0.5, 0.6 * fan_in**-0.5, 0.2, 0.4, 0.7, 0.005, 0.0]
    ways: list[dict[str, Any]] = [{"scale": scale, "shift": 0.0} for scale in scales]
    ways += [{"scale": 0.3, "shift": 1.0}, {"scale": 2.0, "shift": -0.5, "uniform": True}]
    for way in ways:
        generator.set_state(start)
        row = {"name": name, "shape": list(tensor.shape), **way}
        if torch.equal(draw(generator, row), tensor):
            return row | {"sha256": sha256(tensor)}
    raise ValueError(f"{name} is not what this generator draws")


def recipe(streams: list[tuple[int, list[str]]], tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    rows = []
    for seed, names in streams:
        generator = torch.Generator().manual_seed(seed)
        rows.append({"seed": seed, "draws": [recipe_row(name, tensors[name], generator) for name in names if name in tensors]})
    return rows


def compact_model(source: Path, target: Path, names: list[str]) -> None:
    """model_a: recipe.json, and per file what the recipe does not give. `names` is the order in which the weights were drawn."""
    target.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "config_diffusers.json", "gradients_all_param_grad_norms.json"):
        shutil.copy(source / file, target)
    weights = {name: tensor for shard in source.glob("weights-*") for name, tensor in load_file(shard).items()}
    cases = {name: load_file(source / f"{name}.safetensors") for name in STREAMS}
    recipes = {name: recipe(streams, cases[name]) for name, streams in STREAMS.items()}
    recipes["weights"] = recipe([(WEIGHTS_SEED, names)], weights)
    (target / "recipe.json").write_text(json.dumps(recipes, indent=0))
    for name, tensors in cases.items():
        with safe_open(source / f"{name}.safetensors", "pt") as file:
            metadata = file.metadata()
        save_file({k: v for k, v in tensors.items() if k not in drawn(recipes[name])}, target / f"{name}.safetensors", metadata=metadata)
    for name, tensors in (cases | {"weights": weights}).items():
        again = load_case(target, name)
        if again.keys() != tensors.keys() or not all(torch.equal(again[key], tensor) for key, tensor in tensors.items()):
            raise ValueError(f"{name} is not what it was")


def main(source: Path) -> None:
    for file in COPIED:
        shutil.copy(source / file, DATA)
    for folder in COPIED_FOLDERS:
        shutil.copytree(source / folder, DATA / folder, dirs_exist_ok=True)
    tables = load_file(source / "rope_tables.safetensors")
    np.savez_compressed(DATA / "rope_tables.npz", **{name: table.numpy() for name, table in tables.items()})
    with np.load(DATA / "rope_tables.npz") as again:
        if any(not np.array_equal(again[name], table.numpy()) for name, table in tables.items()):
            raise ValueError("the rotary tables are not what they were")
    stored = {name for shard in (source / "model_a").glob("weights-*") for name in load_file(shard)}
    names = [row[0] for row in json.loads((source / "key_map_14b.json").read_text())["tensors"] if row[0] in stored]
    compact_model(source / "model_a", DATA / "model_a", names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
