"""Which checkpoints' videos are made, one after the other, and what is told where they are not. Nothing here needs Ray."""

import json
import os
import shlex
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ray_s2v.config.job import Job
from ray_s2v.data.discover import Discovery
from ray_s2v.data.features import Features
from ray_s2v.data.plan import Plan
from ray_s2v.schema import RunStopped
from ray_s2v.training.prepare import Prepared
from ray_s2v.validation import beside
from ray_s2v.validation.beside import Beside
from tests.plans import BUCKETS, job, many

STEPS = 20
SCENES = [{"name": name, "picture": "/face.png", "speech": "/voice.wav", "prompt": "it's a face"} for name in ("face", "sad")]


@dataclass
class Maker:
    """Makes videos when it is told to; one maker for each checkpoint that it is given."""

    job: Job
    home: Path
    over: bool = False
    died: str = ""
    said: str = ""
    was_ended: bool = False
    previews: list[tuple[str, Path]] = field(default_factory=list)
    could_not: dict[str, str] = field(default_factory=dict)

    def make(self, *names: str, failed: dict[str, str] | None = None, died: str = "") -> None:
        for name in names:
            (self.home / f"{name}.mp4").touch()
        self.could_not, self.died, self.over = failed or {}, died, True

    def is_over(self) -> bool:
        return self.over

    def failed(self) -> dict[str, str]:
        if self.died:
            raise RunStopped(self.died)
        return self.could_not

    def doing(self) -> str:
        return self.said

    def new_previews(self) -> list[tuple[str, Path]]:
        new, self.previews = self.previews, []
        return new

    def end(self) -> None:
        self.was_ended = True


class Run:
    """A run's folder, its makers, and what was told."""

    def __init__(self, folder: Path, first_step: int = 0, start_of: Path | None = None, **validation: Any) -> None:
        """start_of: the run that its first checkpoint is of; itself."""
        self.folder = folder
        base = job(slots=4, steps=STEPS).model_dump()
        settings = {"every": 4, "scenes": SCENES, "timeout_s": 5} | validation
        here = Job.model_validate(base | {"run": {"folder": str(folder)}, "validation": settings, "checkpoint": {"every": 2}})
        clips = many(8, 200, BUCKETS[3])
        plan = Plan.of(here, clips)
        start = (start_of or folder) / "checkpoints" / f"step_{first_step:06d}" if first_step else None
        features = Features("", streams=True, vae="vae", speech="speech", text="text", dtype="fp16")
        discovery = Discovery(clips, [], [], {"clips": 1}, 0, 0, "", 0.0)
        self.makers: list[Maker] = []
        self.reports: list[dict[str, Any]] = []
        self.notes: list[str] = []
        prepared = Prepared(here, discovery, plan, [], features, STEPS, "", first_step, start)
        self.beside = Beside(prepared, self.reports.append, self.notes.append, self.begin)  # type: ignore[arg-type]

    def begin(self, given: Job, home: Path) -> Maker:
        self.makers.append(Maker(given, home))
        return self.makers[-1]

    def save(self, step: int, tell: bool = True) -> None:
        """A checkpoint, as training writes and tells it."""
        checkpoint = self.folder / "checkpoints" / f"step_{step:06d}"
        checkpoint.mkdir(parents=True)
        for name in ("adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors"):
            (checkpoint / name).write_text(f"{name} of {step}")
        if tell:
            self.beside.hear({"checkpoint": step})

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "validation.jsonl").read_text().splitlines()]

    def asked(self) -> list[str]:
        """Of which checkpoints videos were begun."""
        return [maker.home.name for maker in self.makers]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "TICK_S", 0.01)


def test_due_checkpoints_are_made_from_a_copy_of_their_adapter(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(2)
    run.beside.hear({"step": 2, "loss": 1.0})
    run.save(4)
    (maker,) = run.makers
    assert maker.home == tmp_path / "validation/step_000004"
    assert {file.name: file.read_text() for file in (maker.home / "adapters/online").iterdir()} == {
        "adapter_model.safetensors": "adapter_model.safetensors of 4",
        "adapter_config.json": "adapter_config.json of 4",
    }
    run.beside.look()
    assert run.reports == []
    maker.make("face", failed={"sad": "no room"})
    run.beside.look()
    line = {"step": 4, "videos": {"face": "validation/step_000004/face.mp4"}, "failed": {"sad": "no room"}}
    assert run.reports == [{"validation": line}]
    assert run.lines() == [line]
    assert [path.name for path in maker.home.iterdir()] == ["face.mp4"], "the copy is gone"
    assert run.notes == []


def test_previews_are_told_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(4)
    (maker,) = run.makers
    maker.previews = [("face", maker.home / "face/clip_1_step_002.mp4")]
    run.beside.look()
    run.beside.look()
    assert run.reports == [{"preview": {"step": 4, "scene": "face", "video": "validation/step_000004/face/clip_1_step_002.mp4"}}]


def test_newest_waits_for_the_one_at_work_and_older_ones_are_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (4, 8, 12):
        run.save(step)
    assert run.asked() == ["step_000004"]
    assert run.notes == ["the videos of step 8 are left out: step 12 is due, and those of step 4 are not done yet"]
    assert not (tmp_path / "validation/step_000008").exists()
    run.makers[0].make("face", "sad")
    run.beside.look()
    assert run.asked() == ["step_000004", "step_000012"]
    assert (run.makers[1].home / "adapters/online/adapter_config.json").read_text() == "adapter_config.json of 12"


def test_one_that_died_has_made_what_is_there(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(4)
    run.makers[0].make("face", died="the process that made it died")
    run.beside.look()
    assert run.lines() == [
        {"step": 4, "videos": {"face": "validation/step_000004/face.mp4"}, "failed": {"sad": "the process that made it died"}}
    ]
    run.save(8)
    assert run.asked() == ["step_000004", "step_000008"], "and the next is made"


def test_checkpoint_that_is_gone_is_told_and_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.beside.hear({"checkpoint": 4})
    assert run.makers == []
    (note,) = run.notes
    assert note.startswith("the videos of step 4 are left out: [Errno 2] No such file or directory: ")
    assert list((tmp_path / "validation").iterdir()) == []
    run.beside.finish()


def test_what_is_being_done_is_told_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.save(4)
    run.beside.look()
    assert run.notes == []
    monkeypatch.setattr(beside, "TELL_EVERY_S", 0.0)
    run.beside.look()
    run.makers[0].said = "face: clip 1 of 2: step 3 of 40"
    run.beside.look()
    assert run.notes == [
        "videos of step 4: not begun yet; they wait for 1 CPU and one GPU",
        "videos of step 4: face: clip 1 of 2: step 3 of 40",
    ]


def test_last_videos_are_waited_for(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(16)
    run.save(STEPS)
    threading.Timer(0.1, lambda: run.makers[0].make("face", "sad")).start()
    threading.Timer(0.3, lambda: run.makers[1].make("face", "sad")).start()
    run.beside.finish()
    assert [line["step"] for line in run.lines()] == [16, STEPS]
    assert run.notes == ["training is done; the videos of step 20 are waited for, at most 5 s"]


def test_last_checkpoint_that_nobody_told_of_is_made_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(STEPS, tell=False)
    threading.Timer(0.1, lambda: run.makers[0].make("face", "sad")).start()
    run.beside.finish()
    assert [line["step"] for line in run.lines()] == [STEPS]


def test_end_of_the_run_does_not_wait_for_ever_and_says_what_to_do(tmp_path: Path) -> None:
    run = Run(tmp_path, timeout_s=0.2)
    run.save(16)
    run.save(STEPS)
    (tmp_path / "validation/step_000016/face.mp4").touch()
    run.beside.finish()
    run.beside.look()
    assert [maker.was_ended for maker in run.makers] == [True], "and none is begun"
    why = "not done 0.2 s after training (validation.timeout_s)"
    assert run.lines() == [
        {"step": 16, "videos": {"face": "validation/step_000016/face.mp4"}, "failed": {"sad": why}},
        {"step": STEPS, "videos": {}, "failed": {"face": why, "sad": why}},
    ]
    first, *commands = run.notes[-1].splitlines()
    assert first == "these make them:"
    assert shlex.split(commands[1]) == [
        *("python", "-m", "ray_s2v.sample", f"{tmp_path}/job.yaml", "--picture=/face.png", "--speech=/voice.wav", "--prompt=it's a face"),
        *(f"--adapter={tmp_path}/adapter", f"--out={tmp_path}/validation/step_000020/sad.mp4"),
    ]
    assert len(commands) == 2


def test_ctrl_c_ends_the_waiting_and_the_work(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(STEPS)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), run.beside:
        run.beside.finish()
    assert run.makers[0].was_ended
    assert not (tmp_path / "validation/step_000020/adapter").exists()


def test_training_that_fails_ends_what_is_at_work_and_what_waits(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(4)
    run.save(8)
    with pytest.raises(RunStopped), run.beside:
        raise RunStopped
    assert run.makers[0].was_ended
    assert [path.name for path in (tmp_path / "validation").rglob("*")] == ["step_000004"]


def test_resumed_run_makes_what_an_earlier_life_has_not(tmp_path: Path) -> None:
    Run(tmp_path).save(8, tell=False)
    half_done = tmp_path / "validation/step_000008"
    half_done.mkdir(parents=True)
    (half_done / "face.mp4").touch()
    run = Run(tmp_path, first_step=8)
    run.beside.look()
    assert run.makers == [], "not before the workers have their places"
    run.beside.hear({"step": 8, "loss": 1.0})
    assert run.asked() == ["step_000008"]
    assert not (half_done / "face.mp4").exists(), "it may be of other settings"
    run.makers[0].make("face", "sad")
    run.beside.look()

    (tmp_path / "validation.jsonl").open("a").write('{"step": 8, "vid')  # as a kill leaves it
    again = Run(tmp_path, first_step=8)
    again.beside.hear({"step": 8, "loss": 1.0})
    assert again.makers == []


def test_run_that_is_done_is_left_alone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(STEPS)
    run.makers[0].make("face", failed={"sad": "no room"})
    run.beside.finish()
    again = Run(tmp_path, first_step=STEPS)
    again.beside.finish()
    assert again.makers == []
    assert again.notes == []


def test_run_that_begins_with_another_runs_checkpoint_owes_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", first_step=8, start_of=tmp_path / "other")
    run.beside.hear({"step": 8, "loss": 1.0})
    assert run.makers == []
    assert run.notes == []
