"""A sweep's folder: where things lie in it, and what is there of earlier times.

sweep.yaml         the sweep as it was begun
trials/trial_001/  the run of a trial, as any job's; trial.json says how it stands
store/             features that all trials share, unless the job names another store
tune/              Ray Tune's own state
sweep.csv  best.yaml  sweep.png
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ray_s2v.config.sweep import Sweep
from ray_s2v.schema import ConfigError

MAY_CHANGE = {"at_once"}  # from one start of a sweep to the next
MAX_CHANGES = 10  # that are listed


def write_whole(path: Path, text: str) -> None:
    """A file that is never seen half written."""
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)


def check_folder(sweep: Sweep, folder: Path) -> None:
    """Raises ConfigError where the folder cannot be written to, or is that of another sweep than this one."""
    above = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"folder: {above} is no folder that can be written to")
    saved = folder / "sweep.yaml"
    if not saved.exists():
        return
    changes = changed(yaml.safe_load(saved.read_text(encoding="utf-8")), settings_of(sweep))
    if changes:
        listed = "\n".join(f"  {line}" for line in changes[:MAX_CHANGES])
        more = f"\n  and {len(changes) - MAX_CHANGES} more" if len(changes) > MAX_CHANGES else ""
        raise ConfigError(f"{folder} holds a sweep that was begun otherwise:\n{listed}{more}\nChange that back, or take a new folder")


def settings_of(sweep: Sweep) -> dict[str, Any]:
    """The settings that must not change while a sweep goes on, those of its job among them; as YAML would give them back."""
    return {name: value for name, value in sweep.model_dump(mode="json").items() if name not in MAY_CHANGE}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`training.steps was 8, is 12` for each setting that differs."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return [f"{key} was {_said(old, key)}, is {_said(new, key)}" for key in sorted(old | new) if old.get(key, ...) != new.get(key, ...)]


def _said(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not given"


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{place}.{number}")
    else:
        yield place, value


@contextmanager
def in_use(sweep: Sweep, folder: Path) -> Iterator[None]:
    """Keeps the folder to this process, and the sweep's settings in it. Raises ConfigError where another sweep is using it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # given up when this process ends, however it ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"folder: {folder} is in use by another sweep") from error
        write_whole(folder / "sweep.yaml", yaml.safe_dump(settings_of(sweep), sort_keys=False, allow_unicode=True))
        yield
