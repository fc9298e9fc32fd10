"""Checkpoints on disk: complete or absent, the newest kept.

    step_000012/  adapter_model.safetensors  adapter_config.json     what PEFT and diffusers load
                  optimizer.safetensors                              Adam's moments of each adapter tensor
                  progress.json                                      the position in the plan, and which plan
                  job.yaml                                           every setting of the run

A folder is written under another name and renamed when it is whole and on the disk, so one that carries its name is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_s2v.model.lora import load_adapter, save_adapter
from ray_s2v.schema import ConfigError

NAME = re.compile(r"step_(\d{6,})")
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `step` steps are done; the next is step number `step`."""

    step: int
    slots: int  # clips of a global step
    plan: str  # fingerprint


@dataclass(frozen=True)
class State:
    """What training has changed, independent of the number of workers and of the ZeRO stage; all float32, on the CPU."""

    adapter: dict[str, Tensor]  # PEFT's names
    moments: dict[str, Tensor]  # "<adapter name>.exp_avg" and "....exp_avg_sq"


def save_checkpoint(folder: Path, progress: Progress, state: State, config: LoraConfig, job: str, keep: int) -> Path:
    """Writes `folder/step_N` whole, then removes all but the newest `keep`. Returns its path."""
    target = folder / f"step_{progress.step:06d}"
    partial = folder / f"{PARTIAL}{target.name}"
    for leftover in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    save_adapter(partial, state.adapter, config)
    save_file(state.moments, partial / "optimizer.safetensors")
    (partial / "progress.json").write_text(json.dumps(asdict(progress)))
    (partial / "job.yaml").write_text(job)
    _publish(partial, target)
    for _, old in complete_checkpoints(folder)[:-keep]:
        _remove(old)
    return target


def save_final_adapter(folder: Path, adapter: dict[str, Tensor], config: LoraConfig) -> None:
    """Writes the adapter folder whole, in the place of an earlier one."""
    partial = folder.with_name(f"{PARTIAL}{folder.name}")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    save_adapter(partial, adapter, config)
    _publish(partial, folder)


def complete_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of every checkpoint in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))


def load_progress(checkpoint: Path) -> Progress:
    """Where the run of this checkpoint stood. Raises ConfigError if the folder is no checkpoint."""
    try:
        return Progress(**json.loads((checkpoint / "progress.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{checkpoint} is no checkpoint of ray_s2v: {error}") from error


def load_state(checkpoint: Path) -> State:
    """The adapter and the optimizer's moments of a checkpoint."""
    adapter, _ = load_adapter(checkpoint)
    return State(adapter, load_file(checkpoint / "optimizer.safetensors"))


def _publish(partial: Path, target: Path) -> None:
    """Gives a finished folder its name, after everything in it has reached the disk."""
    for path in [*partial.iterdir(), partial]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if target.exists():  # an earlier attempt's, of the same step
        _remove(target)
    partial.rename(target)
    parent = os.open(target.parent, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)


def _remove(folder: Path) -> None:
    """Takes the name away before the contents, so that a kill in between leaves no half folder under it."""
    shutil.rmtree(folder.rename(folder.with_name(f"{PARTIAL}old-{folder.name}")))
