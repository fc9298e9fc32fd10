"""A network that knows faces, but not that mouths speak, learns it by LoRA through the main job; with sound that comes late it does not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from tests.learning.conftest import LENGTH, NUM_TRAINED, STEPS, Talking, job_settings, write_clips
from tests.learning.mouth import openings

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
SEEDS = [1, 2, 3]
LATE = 5  # frames
LOST = 3  # frames of the sound at the beginning for which a video has no pictures


def run(module: str, *arguments: str) -> str:
    """What `python -m ray_s2v.MODULE` said with a Ray of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"ray_s2v.{module}", *arguments],
        cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "local"}, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def measured(folder: Path) -> list[dict[str, Any]]:
    """The held-out figures before the first step and after the last."""
    lines = [json.loads(line) for line in (folder / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, STEPS]
    return lines


@pytest.fixture(scope="module")
def taught(held_out_clips: list[Talking], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of a run for each seed."""
    folder = tmp_path_factory.mktemp("taught")
    write_clips(folder / "clips", range(NUM_TRAINED))
    settings = job_settings(folder / "clips", held_out_clips[0].path.parent, folder / "run")
    (folder / "job.yaml").write_text(yaml.safe_dump(settings))
    sweep = {
        "folder": str(folder / "sweep"),
        "job": str(folder / "job.yaml"),
        "search": "grid",
        "space": {"run.seed": {"values": SEEDS}},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    run("tune", str(folder / "sweep.yaml"))
    return sorted((folder / "sweep/trials").iterdir())


def test_it_learns_what_clips_that_it_never_saw_look_and_sound_like(taught: list[Path]) -> None:
    before, after = zip(*(measured(folder) for folder in taught), strict=True)
    losses = np.array([line["loss"] for line in after])
    worse = np.array([line["worse_with_other_sound"] for line in after])
    fall = before[0]["loss"] - losses.mean()
    print(f"loss {before[0]['loss']:.4f} -> {losses}, worse with another's sound {before[0]['worse_with_other_sound']:.5f} -> {worse}")
    assert len({line["loss"] for line in before}) == 1, "the network is the same for all seeds"
    assert fall >= before[0]["loss"] / 3
    assert fall > 3 * np.ptp(losses)
    assert worse.mean() > 3 * np.ptp(worse)
    assert worse.mean() > 3 * abs(before[0]["worse_with_other_sound"])


@pytest.mark.parametrize("number", [0, 1])
def test_its_mouths_speak(taught: list[Path], held_out_clips: list[Talking], number: int, tmp_path: Path) -> None:
    """In step to the frame, in the first clip and in those that go on from it."""
    talking, video = held_out_clips[number], tmp_path / "told.mp4"
    options = {
        "picture": talking.path,
        "speech": talking.path,
        "prompt": talking.look.caption,
        "adapter": taught[0] / "adapter",
        "out": video,
    }
    run("sample", str(taught[0] / "job.yaml"), *(f"--{name}={value}" for name, value in options.items()))
    pictures = pictures_of(video)
    assert len(pictures) == LENGTH - LOST
    opened = openings(pictures, talking.look)
    at = {lag: correlation(opened[3:-3], talking.loudness[LOST + 3 + lag : LENGTH - 3 + lag]) for lag in range(-3, 4)}
    print(f"correlation of opening and loudness: {at}")
    assert at[0] >= 0.6
    assert max(at, key=lambda lag: at[lag]) == 0


def test_it_does_not_learn_from_sound_that_comes_late(held_out_clips: list[Talking], tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", range(NUM_TRAINED), LATE)
    settings = job_settings(tmp_path / "clips", held_out_clips[0].path.parent, tmp_path / "run")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    run("train", str(tmp_path / "job.yaml"))
    before, after = measured(tmp_path / "run")
    print(f"late: worse with another's sound {before['worse_with_other_sound']:.5f} -> {after['worse_with_other_sound']:.5f}")
    assert after["worse_with_other_sound"] < 0


def pictures_of(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.corrcoef(a, b)[0, 1])
