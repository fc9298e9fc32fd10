"""Checkpoints on disk: complete or absent, the newest kept.

    step_000012/  adapter_model.safetensors  adapter_config.json     what PEFT and diffusers load
                  ema/                                               the same two files of its moving average, where the job wants one
                  optimizer.safetensors                              Adam's moments of each adapter tensor
                  progress.json                                      the position in the plan, and which plan
                  job.yaml                                           every setting of the run
                  contents.json                                      size and SHA-256 of each of these, written last

A folder is written under another name and renamed when it is whole and on the disk, so one that carries its name is complete. Whether
it still is, contents.py tells.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_s2v.model.lora import load_adapter, save_adapter
from ray_s2v.schema import ConfigError
from ray_s2v.training.contents import CONTENTS, WRITERS, as_text, damage_by_size, measured
from ray_s2v.training.progress import Progress, checkpoint_name, complete_checkpoints

PARTIAL = ".partial-"
AVERAGE = "ema"


@dataclass(frozen=True)
class State:
    """What training has changed, independent of the number of workers and of the ZeRO stage; all float32, on the CPU."""

    adapter: dict[str, Tensor]  # PEFT's names
    moments: dict[str, Tensor]  # "<adapter name>.exp_avg" and "....exp_avg_sq"
    average: dict[str, Tensor] | None = None  # of the adapter over the steps, where the job wants one


def save_checkpoint(folder: Path, progress: Progress, state: State, config: LoraConfig, job: str, keep: int) -> Path:
    """Writes `folder/step_N` whole, its files side by side, then removes all but the newest `keep`. Returns its path.

    Raises OSError where the disk does not take it; then nothing of it is left, and what was there before is.
    """
    target = folder / checkpoint_name(progress.step)
    for leftover in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover)

    def write(partial: Path) -> None:
        works: list[Callable[[], object]] = [
            lambda: save_adapter(partial, state.adapter, config),
            lambda: save_file(state.moments, partial / "optimizer.safetensors"),
            lambda: (partial / "progress.json").write_text(json.dumps(asdict(progress))),
            lambda: (partial / "job.yaml").write_text(job, encoding="utf-8"),
        ]
        if average := state.average:
            (partial / AVERAGE).mkdir()
            works.append(lambda: save_adapter(partial / AVERAGE, average, config))
        with ThreadPoolExecutor(WRITERS) as pool:
            for done in [pool.submit(work) for work in works]:
                done.result()
        (partial / CONTENTS).write_bytes(as_text(measured(partial)))

    _write_whole(target, write)
    _prune(folder, progress.step, keep)
    return target


def save_final_adapter(folder: Path, adapter: dict[str, Tensor], config: LoraConfig) -> None:
    """Writes the adapter folder whole, in the place of an earlier one. Raises OSError as `save_checkpoint`."""
    _write_whole(folder, lambda partial: save_adapter(partial, adapter, config))


def keep_as_final(folder: Path, checkpoint: Path) -> None:
    """Writes a checkpoint's adapter, and its average if it has one, as those of the whole run."""
    save_final_adapter(folder / "adapter", *load_adapter(checkpoint))
    if (checkpoint / AVERAGE).is_dir():
        save_final_adapter(folder / f"adapter_{AVERAGE}", *load_adapter(checkpoint / AVERAGE))


def load_state(checkpoint: Path) -> State:
    """The adapter, the optimizer's moments and maybe the average of a checkpoint. Raises ConfigError where one cannot be read."""
    adapter, _ = load_adapter(checkpoint)
    average = load_adapter(checkpoint / AVERAGE)[0] if (checkpoint / AVERAGE).is_dir() else None
    try:
        moments = load_file(checkpoint / "optimizer.safetensors")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{checkpoint}: the optimizer's moments cannot be read: {error}") from error
    return State(adapter, moments, average)


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """A folder that `write` fills under another name, and that has its own when it is on the disk."""
    partial = target.with_name(f"{PARTIAL}{target.name}")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        write(partial)
        publish(partial, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # half of it is worth nothing, and the disk may be full
        raise error if isinstance(error, OSError) else OSError(str(error)) from error


def publish(partial: Path, target: Path) -> None:
    """Gives a finished folder its name, after everything in it has reached the disk."""
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    old = target.with_name(f"{PARTIAL}old-{target.name}")
    if old.exists():  # what a kill has left
        shutil.rmtree(old)
    if target.exists():  # an earlier attempt's, of the same step
        target.rename(old)
    partial.rename(target)
    if old.exists():
        shutil.rmtree(old)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Removes all but the newest `keep` of the whole ones up to `step`. What lies beyond was damaged, or the run would not be here."""
    whole = [path for done, path in complete_checkpoints(folder) if done <= step and not damage_by_size(path)]
    for old in whole[:-keep]:
        _remove(old)


def _remove(folder: Path) -> None:
    """Takes the name away before the contents, so that a kill in between leaves no half folder under it."""
    shutil.rmtree(folder.rename(folder.with_name(f"{PARTIAL}old-{folder.name}")))
