"""The demo's files, made once, and its job as a person runs it: a process of its own, with a Ray of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ray_s2v.config.job import Demo
from ray_s2v.demo import prepare_demo

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs/demo.yaml"
STEPS = 12  # two epochs
SHORT = [f"training.steps={STEPS}", "checkpoint.every=3", "checkpoint.keep=2"]


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    prepare_demo(Demo(folder=str(folder)))
    return folder


def demo_places(folder: Path) -> list[str]:
    """Overrides that point jobs/demo.yaml at the demo's files in a folder."""
    weights = folder / "weights"
    return [
        f"demo.folder={folder}",
        f"data.sources.0.path={folder / 'clips'}",
        f"data.sources.1.path={folder / 'held_out'}",
        f"encoders.vae.path={weights / 'vae'}",
        f"encoders.speech.path={weights / 'wav2vec2-large-xlsr-53-english'}",
        f"encoders.text.path={weights / 'text_encoder'}",
        f"encoders.text.tokenizer={weights / 'tokenizer'}",
        f"model.path={weights}",
    ]


@pytest.fixture(scope="session")
def places(demo_files: Path) -> list[str]:
    return demo_places(demo_files)


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m ray_s2v.MODULE ARGUMENTS` with a Ray of its own; what is still running in the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(module: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"ray_s2v.{module}", *arguments],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "local"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def start(run: Callable[..., subprocess.Popen[str]], places: list[str]) -> Callable[..., subprocess.Popen[str]]:
    """Starts `python -m ray_s2v.train`, or another module of it, on the demo's job."""

    def start(*overrides: str, module: str = "train") -> subprocess.Popen[str]:
        return run(module, str(JOB), *places, *overrides)

    return start


@dataclass(frozen=True)
class Undisturbed:
    """The demo's job run from its beginning to its end."""

    folder: Path
    said: str
    exit_code: int


@pytest.fixture(scope="session")
def undisturbed(start: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(*SHORT, f"run.folder={folder}")
    said = process.communicate(timeout=600)[0]
    return Undisturbed(folder, said, process.returncode)


@pytest.fixture(scope="session")
def store(start: Callable[..., subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All features of the short run, encoded without disturbance. Not to be written to."""
    store = tmp_path_factory.mktemp("store") / "store"
    process = start(*SHORT, f"data.store={store}", f"run.folder={store.parent / 'run'}", module="encode")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "done: 27 text, 27 speech, 54 video encoded" in said
    assert "Traceback" not in said
    return store


@pytest.fixture(scope="session")
def kept(store: Path) -> list[str]:
    """Overrides for a short run of which encoders are not the point: it takes the store's features, and is there sooner."""
    return [f"data.store={store}", "data.features=store"]


def entries(store: Path, kind: str = "*") -> dict[str, Path]:
    """The store's files of features, by what they are and where."""
    return {path.relative_to(store).as_posix(): path for path in store.glob(f"features/{kind}/*/*.parquet")}


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's steps.jsonl, those of repeated steps included."""
    file = run / "steps.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def held_out(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's held_out.jsonl."""
    return [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str], timeout_s: float = 400) -> None:
    """Returns once the run has logged a step."""
    deadline = time.monotonic() + timeout_s
    while not any(record["step"] >= step for record in records(run)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"step {step} was not reached in {timeout_s} s"
        time.sleep(0.1)
