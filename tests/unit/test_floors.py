"""Imports go down a floor, never up, never sideways; and Ray lives in few files."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ray_s2v

ROOT = Path(ray_s2v.__file__).parent
ROOMS = [
    {"schema", "config", "settings_file", "job_file", "sweep_file", "location", "storage", "ranks"},
    {"media", "encoders", "model"},
    {"data", "demo", "cluster"},
    {"training", "reporting"},
    {"benchmark", "tuning", "validation"},
    {"command", "train", "check", "encode", "extract_audio", "bench", "tune", "sample", "report", "push"},
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
BESIDE = {
    ("config", "schema"),
    ("location", "schema"),
    ("storage", "schema"),
    ("settings_file", "schema"),
    ("job_file", "config"),
    ("job_file", "settings_file"),
    ("sweep_file", "config"),
    ("sweep_file", "job_file"),
    ("sweep_file", "schema"),
    ("sweep_file", "settings_file"),
    ("ranks", "schema"),
    ("train", "command"),
    ("check", "command"),
    ("encode", "command"),
    ("extract_audio", "command"),
    ("bench", "command"),
    ("tune", "command"),
    ("sample", "command"),
    ("report", "command"),
    ("push", "command"),
}
WITH_RAY = {
    "cluster/join.py",
    "cluster/supply.py",
    "data/discover.py",
    "data/encode.py",
    "data/stream.py",
    "training/amd_devices.py",
    "training/driver.py",
    "training/elastic.py",
    "training/encoding.py",
    "training/preemption.py",
    "training/relay.py",
    "training/worker.py",
    "tuning/run.py",
    "tuning/schedulers.py",
    "tuning/search.py",
    "tuning/trial.py",
    "tuning/watch.py",
    "validation/making.py",
}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(module: str) -> Iterator[str]:
    """Dotted names of all that a module imports anywhere in it."""
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    room = module.split("/")[0].removesuffix(".py")
    for name in imported(module):
        if name.split(".")[0] == "ray_s2v":
            other = name.split(".")[1]
            assert other == room or FLOOR[other] < FLOOR[room] or (room, other) in BESIDE, f"{module} imports {name}"


def test_package_itself_imports_nothing() -> None:
    assert list(imported("__init__.py")) == []


def test_ray_lives_in_few_files() -> None:
    assert {module for module in MODULES if any(name.split(".")[0] == "ray" for name in imported(module))} == WITH_RAY
