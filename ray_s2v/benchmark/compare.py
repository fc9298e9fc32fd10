"""The same measurement under a list of settings, each in a process of its own, one after the other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ray_s2v.benchmark.processes import end_with
from ray_s2v.job_file import load_job
from ray_s2v.schema import ConfigError, RunStopped

SHAPE = "{name: text, set: [section.key=value, ...]}, or the overrides alone, [section.key=value, ...]"
KINDS = ("first", "continuation", "mixed")


@dataclass(frozen=True)
class Variant:
    """One item of a list."""

    name: str
    settings: list[str]  # overrides


def read_list(file: Path) -> list[Variant]:
    """The variants of a YAML list. Raises ConfigError telling every item that is none."""
    try:
        items = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--compare {file}: {error.strerror}; it must be a YAML list whose items read {SHAPE}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--compare {file}: no readable YAML: {error}") from error
    if not isinstance(items, list) or not items:
        raise ConfigError(f"--compare {file}: must be a YAML list whose items read {SHAPE}")
    variants = [_variant(item) for item in items]
    if wrong := [f"  item {i} is {item!r}" for i, (item, v) in enumerate(zip(items, variants, strict=True)) if v is None]:
        raise ConfigError("\n".join([f"--compare {file}: an item reads {SHAPE}", *wrong]))
    found = [variant for variant in variants if variant]
    names = [variant.name for variant in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--compare {file}: give each item a name of its own, not several {', '.join(twice)}")
    return found


def _variant(item: Any) -> Variant | None:
    if isinstance(item, list):
        item = {"name": " ".join(map(str, item)) or "as the job", "set": item}
    if not isinstance(item, dict) or item.keys() != {"name", "set"}:
        return None
    name, settings = item["name"], item["set"]
    if not isinstance(settings, list) or not all(isinstance(setting, str) for setting in settings):
        return None
    return Variant(str(name), settings)


def check_jobs(variants: Sequence[Variant], own: Sequence[str]) -> None:
    """Raises ConfigError telling what is wrong in the job of each variant. own: the job's file and what is otherwise in it."""
    wrong = []
    for variant in variants:
        try:
            load_job(own[0], [*own[1:], *variant.settings])
        except ConfigError as error:
            wrong.append(f"{variant.name}:\n{error}")
    if wrong:
        raise ConfigError("\n\n".join(wrong))


def compared(
    variants: Sequence[Variant], arguments: Sequence[str], profile: Path | None, note: Callable[[str], None]
) -> Iterator[list[dict[str, Any]]]:
    """After each variant all so far: of each its name, its settings, and its report, or `failed` with the reason.

    Reports are given `speed`: clips per hour over those of the first variant, if that ran. arguments: of `python -m ray_s2v.bench`,
    for all of them. profile: the folder that gets a folder of traces for each. Raises RunStopped if all failed.
    """
    runs: list[dict[str, Any]] = []
    for number, variant in enumerate(variants):
        note(f"\n== {variant.name}: {' '.join(variant.settings) or 'as the job'}")
        own = [] if profile is None else ["--profile", str(profile / folder_of(number, variant.name))]
        run = {"name": variant.name, "set": variant.settings, **_run([*arguments, *own, *variant.settings])}
        runs.append(run)
        for kind in KINDS:
            if kind in run and kind in runs[0]:
                run[kind]["speed"] = run[kind]["clips_per_hour"] / runs[0][kind]["clips_per_hour"]
        yield runs
    if all("failed" in run for run in runs):
        raise RunStopped("\n".join(f"{run['name']}: {run['failed']}" for run in runs))


def folder_of(number: int, name: str) -> str:
    """A folder's name that every file system takes and no other item of the list has. number: of the item, from 0."""
    return f"{number}-{re.sub('[^A-Za-z0-9.=]+', '-', name)[:80]}".rstrip("-")


def _run(arguments: Sequence[str]) -> dict[str, Any]:
    """The report of one process, or {"failed": reason}. It does not outlive this one."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [sys.executable, "-m", "ray_s2v.bench", *arguments, "--out", str(out)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=partial(end_with, os.getpid()))
        try:
            _, told = process.communicate()
        finally:
            process.kill()
            process.wait()
        if process.returncode == 0:
            return json.loads(out.read_text())
    sys.stderr.write(told)
    return {"failed": reason(told, process.returncode)}


def reason(told: str, code: int) -> str:
    """Why a process ended with a code other than 0, from its standard error: its last paragraph, of a traceback the last line."""
    if code < 0:
        return f"ended by signal {-code}"
    *_, last = told.strip().split("\n\n")
    lines = [line.strip() for line in last.splitlines()]
    if "Traceback (most recent call last):" in told or not last:
        return lines[-1] if lines else f"exit code {code}"
    return "; ".join(lines)
