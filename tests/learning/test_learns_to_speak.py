"""A network that knows faces, but not that mouths speak, learns it by LoRA through the main job; with sound that comes late it does not."""

import itertools
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

from tests.learning.conftest import LENGTH, NUM_TRAINED, STEPS, Talking, job_settings, write_clips, write_late_sounds
from tests.learning.mouth import openings
from tests.learning.world import NUM_FRAMES

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SEEDS = {"seed_1": 1, "seed_2": 2, "seed_3": 3}
RUNS = [*SEEDS, "late"]
LATE = 5  # frames
LAGS = 6  # frames
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
def taught(held_out_clips: list[Talking], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a run for each seed, and of one that heard everything late."""
    folder = tmp_path_factory.mktemp("taught")
    clips = write_clips(folder / "clips", range(NUM_TRAINED))
    write_late_sounds(folder / "late_sounds", clips, LATE)
    for name in RUNS:
        sounds = folder / "late_sounds" if name == "late" else None
        settings = job_settings(folder / "clips", held_out_clips[0].path.parent, folder / name, sounds)
        settings["run"]["seed"] = SEEDS.get(name, 1)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        run("encode", str(folder / f"{name}.yaml"))
        run("train", str(folder / f"{name}.yaml"), "data.features=store")
    return {name: folder / name for name in RUNS}


def test_it_learns_what_clips_that_it_never_saw_look_and_sound_like(taught: dict[str, Path]) -> None:
    before, after = zip(*(measured(taught[name]) for name in SEEDS), strict=True)
    losses = np.array([line["loss"] for line in after])
    worse = np.array([line["worse_with_other_sound"] for line in after])
    fall = before[0]["loss"] - losses.mean()
    print(f"loss {before[0]['loss']:.4f} -> {losses}, worse with another's sound {before[0]['worse_with_other_sound']:.5f} -> {worse}")
    assert len({line["loss"] for line in before}) == 1, "the network is the same for all seeds"
    assert fall >= before[0]["loss"] / 3
    assert fall > 3 * np.ptp(losses)
    assert worse.mean() > 3 * np.ptp(worse)
    assert worse.min() > before[0]["worse_with_other_sound"], "the lamp has followed the voice before; now the mouth does"


@pytest.mark.parametrize("number", [0, 3])
def test_its_mouths_speak(taught: dict[str, Path], held_out_clips: list[Talking], number: int, tmp_path: Path) -> None:
    """In step to the frame, in the first clip and in those that go on from it."""
    at = by_lag(told(taught["seed_1"], held_out_clips[number], tmp_path / "told.mp4"), held_out_clips[number])
    print(f"correlation of opening and loudness by lag, in the first clip and all after it: {at}")
    for part in at:
        assert part[0] >= 0.6
        assert max(part, key=lambda lag: part[lag]) == 0


def test_it_does_not_learn_from_sound_that_comes_late(taught: dict[str, Path], held_out_clips: list[Talking], tmp_path: Path) -> None:
    """Then mouths are as many frames off, and the loss of clips whose sound is in step stays above all seeds' of the others."""
    in_step, late = [measured(taught[name])[1] for name in SEEDS], measured(taught["late"])[1]
    print(f"late: loss {late['loss']:.4f}, worse with another's sound {late['worse_with_other_sound']:.5f}")
    assert late["loss"] > max(line["loss"] for line in in_step)
    assert late["worse_with_other_sound"] < min(line["worse_with_other_sound"] for line in in_step)
    at, _ = by_lag(told(taught["late"], held_out_clips[0], tmp_path / "told.mp4"), held_out_clips[0])
    print(f"late: correlation by lag {at}")
    assert at[0] < 0.6
    assert max(at, key=lambda lag: at[lag]) == LATE


def told(taught: Path, talking: Talking, video: Path) -> NDArray[np.uint8]:
    """The pictures of a video of what a run has learnt, to a clip's first picture, speech and caption."""
    options = {"picture": talking.path, "speech": talking.path, "prompt": talking.look.caption, "adapter": taught / "adapter", "out": video}
    run("sample", str(taught / "job.yaml"), *(f"--{name}={value}" for name, value in options.items()))
    pictures = pictures_of(video)
    assert LENGTH - LOST <= len(pictures) <= LENGTH - LOST + 1, "the last packet of sound may reach into one frame more"
    return pictures[: LENGTH - LOST]


def by_lag(pictures: NDArray[np.uint8], talking: Talking) -> list[dict[int, float]]:
    """How openings go with the loudness so many frames later: in the first clip, and the mean of those between it and the last."""
    opened, ends = openings(pictures, talking.look), range(NUM_FRAMES - LOST, LENGTH - NUM_FRAMES, NUM_FRAMES)
    clips = []
    for begin, end in itertools.pairwise([0, *ends]):
        lags = [lag for lag in range(-LAGS, LAGS + 1) if LOST + begin + lag >= 0 and LOST + end + lag <= LENGTH]
        clips.append({lag: correlation(opened[begin:end], talking.loudness[LOST + begin + lag : LOST + end + lag]) for lag in lags})
    shared = set.intersection(*(set(clip) for clip in clips[1:]))
    return [clips[0], {lag: float(np.mean([clip[lag] for clip in clips[1:]])) for lag in sorted(shared)}]


def pictures_of(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.corrcoef(a, b)[0, 1])
