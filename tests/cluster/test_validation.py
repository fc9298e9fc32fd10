"""Videos of what is learnt so far, made beside the main job: they come out, and whatever becomes of them, training goes its way."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import psutil
import pytest

from tests.cluster.conftest import SHORT, STEPS, Undisturbed, records

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

FRAMES = 16  # of sound: one clip
LOST_FRAMES = 3
SIDE = 80


@pytest.fixture(scope="module")
def scenes(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two, of a demo clip's first picture and its sound, as an override."""
    clip = demo_files / "held_out/held_out_0.mp4"
    picture = tmp_path_factory.mktemp("scenes") / "face.png"
    with av.open(clip) as container:
        next(container.decode(video=0)).to_image().save(picture)
    words = clip.with_suffix(".txt").read_text()
    scene = {"picture": str(picture), "speech": str(clip), "prompt": words, "seconds": FRAMES / 16}
    return f"validation.scenes={json.dumps([{'name': name, **scene} for name in ('first', 'second')])}"


def wait_for(path: Path, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} has not come within {timeout_s} s"
        time.sleep(0.02)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def test_one_killed_and_one_made(start: Callable, scenes: str, undisturbed: Undisturbed, kept: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = [f"sampling.size={SIDE}x{SIDE}", "sampling.num_frames=16", "sampling.steps=2"]
    process = start(*SHORT, *kept, f"run.folder={run}", "validation.every=6", "validation.gpus=0", "validation.cpus=0.25", scenes, *small)
    wait_for(run / "validation/step_000006/first.mp4")
    (maker,) = [child for child in psutil.Process(process.pid).children(recursive=True) if child.name().startswith("ray::_make")]
    maker.kill()
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "Traceback" not in said

    killed, made = lines(run)
    videos = {step: {name: f"validation/{step}/{name}.mp4" for name in ("first", "second")} for step in ("step_000006", "step_000012")}
    assert killed == {
        "step": 6,
        "videos": {"first": videos["step_000006"]["first"]},
        "failed": {"second": "the process that made it died"},
    }
    assert made == {"step": STEPS, "videos": videos["step_000012"], "failed": {}}
    assert f"videos after 6 steps: {videos['step_000006']['first']}  second failed: the process that made it died" in said
    assert f"videos after {STEPS} steps: {', '.join(made['videos'].values())}" in said
    assert sorted(path.name for path in (run / "validation/step_000012").iterdir()) == ["first.mp4", "second.mp4"]

    for video in made["videos"].values():
        with av.open(run / video) as container:
            pictures = list(container.decode(video=0))
            assert container.streams.video[0].average_rate == 16
        assert [(picture.width, picture.height) for picture in pictures] == [(SIDE, SIDE)] * (FRAMES - LOST_FRAMES)
        with av.open(run / video) as container:
            seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
        assert seconds == pytest.approx((FRAMES - LOST_FRAMES) / 16, abs=0.1)

    known = ("step", "loss", "losses", "gradient_norm", "learning_rate", "clip_ids")
    assert [[record[name] for name in known] for record in records(run)] == [
        [record[name] for name in known] for record in records(undisturbed.folder)
    ], "to the bit"
