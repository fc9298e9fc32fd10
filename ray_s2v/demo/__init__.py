"""Things to try the trainer on, made by code: talking clips, and tiny weights of the real classes in the checkpoint's layout."""

from __future__ import annotations

import shutil
from pathlib import Path

from ray_s2v.config.job import Demo
from ray_s2v.demo.clips import make_clips
from ray_s2v.demo.encoder_weights import save_encoders
from ray_s2v.demo.transformer_weights import save_transformer


def prepare_demo(demo: Demo) -> None:
    """Makes `clips` and `weights` below the demo's folder unless they are there; each appears whole or not at all."""
    folder = Path(demo.folder)
    if not (folder / "clips").exists():
        make_clips(_fresh(folder / "clips.partial"), demo.seed)
        (folder / "clips.partial").rename(folder / "clips")
    if not (folder / "weights").exists():
        partial = _fresh(folder / "weights.partial")
        save_encoders(partial, [file.read_text() for file in sorted((folder / "clips").glob("*.txt"))], demo.seed)
        save_transformer(partial, demo.seed)
        partial.rename(folder / "weights")


def _fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
