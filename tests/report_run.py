"""A run's folder as training leaves it, made by hand: curves of known shape, validation videos with sound, names that are HTML."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_s2v.data.discover import rejected_csv
from ray_s2v.data.found import Rejected
from ray_s2v.job_file import dump_job
from ray_s2v.media.write import write_video
from ray_s2v.schema import FRAME_RATE, SAMPLE_RATE
from tests.jobs import changed, load

LEVELS = 4
SCRIPT = "<script>window.broken = true; console.error('run')</script>"
TAG = "<img src=x onerror=console.error(1)>"
SCENES = ("teacher, close up", "news desk", "grandmother & dog")


def step_line(step: int, of: int, **changes: Any) -> dict[str, Any]:
    """As the loop writes it: a loss that falls, warm-up and cosine, a first step that waits."""
    random = np.random.default_rng(step)
    losses = [0.16 + 0.1 * float(np.exp(-4 * step / of)) + abs(float(random.normal(0, 0.05))) for _ in range(8)]
    wait_s = 31.0 if step == 0 else 0.05 + 0.6 * float(random.random() ** 8)
    line = {
        "step": step,
        "loss": sum(losses) / len(losses),
        "learning_rate": 1e-4 * min((step + 1) / (of / 20), (1 + float(np.cos(np.pi * step / of))) / 2),
        "gradient_norm": 0.08 + 0.3 * float(np.exp(-9 * step / of)) + abs(float(random.normal(0, 0.02))) + 1.5 * (step % 397 == 300),
        "clip_ids": [f"faces/{int(number):04d}.mp4" for number in random.integers(0, 900, 8)],
        "losses": losses,
        "unreadable": {},
        "step_s": 9.5 + wait_s + 0.2 * float(random.random()),
        "wait_s": wait_s,
        "memory_gib": 60.5,
    }
    return line | changes


def held_out_line(step: int, of: int, **changes: Any) -> dict[str, Any]:
    """As the worker writes it: by level, and a sound that is worth more and more."""
    learnt = 1 - float(np.exp(-3 * step / of))
    by_level = [base * (1 - drop * learnt) for base, drop in ((0.071, 0.05), (0.133, 0.11), (0.242, 0.16), (0.451, 0.2))]
    line = {
        "step": step,
        "loss": sum(by_level) / LEVELS,
        "loss_without_sound": 0.23,
        "loss_with_other_sound": 0.22,
        "worse_without_sound": 0.0011 + 0.0212 * learnt**2,
        "worse_with_other_sound": 0.0003 + 0.0143 * learnt**2,
        "by_level": by_level,
        "clips": {"eval/0.mp4": 0.2},
        "not_compared": [],
        "unreadable": {},
    }
    return line | changes


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_scene(path: Path, number: int, side: int = 160) -> None:
    """Two seconds of a mouth that opens with the loudness of a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opening = np.abs(np.sin(2 * np.pi * 1.5 * np.arange(2 * FRAME_RATE) / FRAME_RATE))
    loudness = np.interp(np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE, np.arange(2 * FRAME_RATE) / FRAME_RATE, opening)
    tone = 0.4 * loudness * np.sin(2 * np.pi * (180 + 60 * number) * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    write_video(path, (face(number, side, float(wide)) for wide in opening), FRAME_RATE, tone.astype(np.float32), preset="ultrafast")


def face(number: int, side: int, opening: float) -> NDArray[np.uint8]:
    """[side, side * 26 // 15, 3] RGB."""
    width = side * 26 // 15 // 2 * 2
    x, y = (np.arange(width) - width / 2) / side, (np.arange(side)[:, None] - side / 2) / side
    picture = np.empty((side, width, 3), np.uint8)
    picture[:] = ((58, 84, 110), (122, 92, 70), (70, 106, 88))[number % 3]
    picture[(x / 0.28) ** 2 + (y / 0.38) ** 2 < 1] = ((233, 194, 166), (176, 124, 92), (240, 208, 186))[number % 3]
    for eye in (-0.1, 0.1):
        picture[((x - eye) / 0.03) ** 2 + ((y + 0.1) / 0.03) ** 2 < 1] = (36, 30, 30)
    picture[(x / 0.09) ** 2 + ((y - 0.18) / (0.012 + 0.07 * opening)) ** 2 < 1] = (126, 36, 44)
    return picture


def make_run(folder: Path, of: int = 2000, done: int = 1600, scenes: Sequence[str] = (*SCENES, TAG)) -> Path:
    """A run of `of` steps that came as far as `done`, was killed once on the way, and has no adapter yet."""
    folder.mkdir(parents=True)
    settings: dict[str, Any] = {
        "run.folder": str(folder),
        "training.steps": of,
        "training.learning_rate": 2e-4,
        "data.sources.0.caption": "fixed",
        "data.sources.0.instance_prompt": f"a person talks {SCRIPT}",
        "data.sources.1.is_eval": True,
    }
    if scenes:
        files = {"picture": "face.png", "speech": "speech.wav"}
        made = [files | {"name": scene, "prompt": f"{scene}, facing the camera, even light"} for scene in scenes]
        made[-1]["prompt"] += f" {SCRIPT}"
        settings["validation"] = {"every": 100, "scenes": made}
    job = load(folder, changed(settings))
    (folder / "written.yaml").unlink()
    (folder / "job.yaml").write_text(dump_job(job), encoding="utf-8")
    rejected = [Rejected(f"/data/faces/{SCRIPT}.mp4", "no sound"), Rejected("/data/faces/2.mp4", 'the "caption", is empty')]
    (folder / "rejected.csv").write_text(rejected_csv(rejected), encoding="utf-8")
    killed, checkpoint = done // 2, done // 2 - done // 20
    steps = [step_line(step, of) for step in [*range(killed), *range(checkpoint, done)]]
    steps[done // 4]["unreadable"] = {f"faces/{SCRIPT}.mp4": "truncated or damaged: <b>a packet</b> is incomplete"}
    write_lines(folder / "steps.jsonl", steps)
    every = max(done // 8, 1)
    write_lines(folder / "held_out.jsonl", [held_out_line(step, of) for step in range(0, done + 1, every)])
    validations = []
    for step in range(2 * every, done + 1, 2 * every):
        videos = {scene: f"validation/step_{step:06d}/{number}.mp4" for number, scene in enumerate(scenes)}
        for number, path in enumerate(videos.values()):
            write_scene(folder / path, number)
        validations.append({"step": step, "videos": videos, "failed": {}})
    if validations:
        validations[-1]["failed"] = {"cellist": f"out of memory {SCRIPT}"}
    write_lines(folder / "validation.jsonl", validations)
    return folder
