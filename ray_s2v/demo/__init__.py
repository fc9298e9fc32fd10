"""Things to try the trainer on, made by code: talking clips, and tiny weights of the real classes in the checkpoint's layout."""

from __future__ import annotations

import shutil
from pathlib import Path

from ray_s2v.config.job import Demo
from ray_s2v.demo.clips import make_clips, make_held_out_clips
from ray_s2v.demo.encoder_weights import save_encoders
from ray_s2v.demo.transformer_weights import save_transformer


def prepare_demo(demo: Demo) -> None:
    """Makes `clips`, `held_out` and `weights` below the demo's folder unless they are there; each appears whole or not at all."""
    folder = Path(demo.folder)
    for name, make in (("clips", make_clips), ("held_out", make_held_out_clips)):
        if not (folder / name).exists():
            partial = _fresh(folder / f"{name}.partial")
            make(partial, demo.seed)
            partial.rename(folder / name)
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
