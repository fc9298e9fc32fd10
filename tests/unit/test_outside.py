"""A run as services outside of it hear of it; what the environment must hold for that; and that no secret leaves it."""

import json
import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ray_s2v.config.job import Job
from ray_s2v.config.tracking import Webhook, wrong_environment
from ray_s2v.job_file import dump_job
from ray_s2v.reporting import outside
from ray_s2v.reporting.outside import STOPPED_S, Outside
from ray_s2v.reporting.services import webhook, weights_and_biases
from ray_s2v.schema import RunStopped
from tests.jobs import changed, mistakes
from tests.servers import Answer, answering, hanging, refusing

SECRET = "t0psecret"
HELD_OUT = {"step": 2, "loss": 0.75, "worse_without_sound": 0.25, "worse_with_other_sound": 0.125, "by_level": [0.5, 1.0]}


def job(**settings: Any) -> Job:
    return Job.model_validate(changed(settings))


def step(number: int) -> dict[str, Any]:
    """A step of 2 s for 4 clips."""
    figures = {"loss": 0.5, "learning_rate": 1e-4, "gradient_norm": 2.0, "step_s": 2.0, "wait_s": 0.5, "memory_gib": 3.0}
    return {"step": number, "clip_ids": ["a", "b", "c", "d"], "losses": [0.5] * 4, "unreadable": {"d": "damaged"}, **figures}


def events(folder: Path) -> list[dict[str, Any]]:
    """What run_training reports of a run of two steps."""
    video = folder / "validation" / "step_000002" / "anna.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"a video")
    shown = {"step": 2, "videos": {"anna": str(video.relative_to(folder))}, "failed": {"ben": "no face"}}
    return [step(0), step(1), {"held_out": HELD_OUT}, {"checkpoint": 2}, {"validation": shown}]


def test_a_webhook_hears_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-run"
    with answering(lambda request: Answer(204)) as server:
        monkeypatch.setenv("A", f"{server.url}/a")
        monkeypatch.setenv("B", f"{server.url}/b")
        told = Outside(
            job(webhooks=[{"url_variable": "A", "kind": "raw"}, {"url_variable": "B", "kind": "raw", "events": ["failed"]}]),
            folder,
            num_steps=2,
            first_step=0,
            note=print,
        )
        for event in events(folder):
            told.show(event)
        assert told.end("failed", "RunStopped: out of memory") == []
    posted = {path: [json.loads(each.body) for each in server.requests if each.path == path] for path in ("/a", "/b")}
    assert [(each["event"], each["step"]) for each in posted["/a"]] == [
        ("started", 0),
        ("held_out", 2),
        ("checkpoint", 2),
        ("validation", 2),
        ("failed", 2),
    ]
    assert all((each["run"], each["num_steps"]) == ("my-run", 2) for each in posted["/a"])
    _, held_out, checkpoint, validation, failed = posted["/a"]
    assert held_out["figures"] == {
        "held_out/loss": 0.75,
        "held_out/worse_without_sound": 0.25,
        "held_out/worse_with_other_sound": 0.125,
        "held_out/level_1": 0.5,
        "held_out/level_2": 1.0,
    }
    assert checkpoint["figures"] == held_out["figures"] | {
        "train/loss": 0.5,
        "train/learning_rate": 1e-4,
        "train/gradient_norm": 2.0,
        "train/clips_per_s": 2.0,
        "train/wait_share": 0.25,
        "train/unreadable_clips": 1,
        "system/gpu_memory_gib": 3.0,
    }
    assert validation["videos"] == {"anna": str(folder / "validation" / "step_000002" / "anna.mp4")}
    assert validation["text"] == "ben failed: no face"
    assert failed["text"] == "RunStopped: out of memory"
    assert posted["/b"] == [failed]


def test_steps_are_drawn_at_the_steps_done(tmp_path: Path) -> None:
    told = Outside(job(**{"tracking.tensorboard": True, "training.worker_gpus": 0}), tmp_path, 9, 4, print)
    for number in (4, 5):
        told.show(step(number))
    told.show({"held_out": HELD_OUT | {"step": 6, "worse_without_sound": None, "worse_with_other_sound": None}})
    assert told.end("finished") == []
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    charts = {chart for chart in read.Tags()["scalars"] if not chart.startswith(("train/", "system/"))}
    assert charts == {"held_out/loss", "held_out/level_1", "held_out/level_2"}
    assert [point.step for point in read.Scalars("train/loss")] == [5, 6]
    assert [(point.step, point.value) for point in read.Scalars("held_out/loss")] == [(6, 0.75)]
    assert [point.value for point in read.Scalars("system/worker_memory_gib")] == [3.0, 3.0]


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (None, ("finished", "")),
        (KeyboardInterrupt(), ("stopped", "")),
        (RunStopped("out of memory\nmore"), ("failed", "RunStopped: out of memory")),
    ],
)
def test_a_run_ends_as_what_it_is_beside(
    error: BaseException | None, ended: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    with answering(lambda request: Answer(204 if b"started" in request.body else 404)) as server:
        monkeypatch.setenv("A", server.url)
        caught = pytest.raises(type(error)) if error else nullcontext()
        with caught, Outside(job(webhooks=[{"url_variable": "A", "kind": "raw"}]), tmp_path, 2, 0, notes.append):
            if error:
                raise error
    last = json.loads(server.requests[-1].body)
    assert (last["event"], last["text"]) == ended
    assert notes == ["webhook A: 1 of 2 messages were not delivered: answered 404 Not Found"]


def test_dead_services_cost_a_run_nothing_but_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_and_biases, "INIT_S", 1)
    monkeypatch.setattr(weights_and_biases, "FINISH_S", 1)
    monkeypatch.setattr(webhook, "BACK_OFF_S", 0.05)
    notes: list[str] = []
    with hanging() as hangs, answering(lambda request: Answer(500)) as broken:
        monkeypatch.setenv("HANGS", f"{hangs}/{SECRET}")
        monkeypatch.setenv("REFUSES", f"{refusing()}/{SECRET}")
        monkeypatch.setenv("BROKEN", f"{broken.url}/{SECRET}")
        monkeypatch.setenv("WANDB_BASE_URL", refusing())
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        webhooks = [{"url_variable": name, "events": ["started", "stopped"]} for name in ("HANGS", "REFUSES", "BROKEN")]
        monkeypatch.setattr(webhook, "ANSWER_S", 1)
        began = time.monotonic()
        told = Outside(
            job(**{"tracking.wandb.project": "p", "tracking.tensorboard": True, "webhooks": webhooks}), tmp_path, 100, 0, notes.append
        )
        for number in range(100):
            told.show(step(number))
        assert time.monotonic() - began < 1
        while len(notes) < 4:
            time.sleep(0.05)
            told.show({"checkpoint": 100})
        began = time.monotonic()
        lines = told.end("stopped")
        assert time.monotonic() - began < STOPPED_S + 1
    wandb_line, *others = lines
    assert wandb_line.startswith(f"W&B: `wandb sync {tmp_path}/wandb/offline-run-")
    assert others == [
        "webhook HANGS: 2 of 2 messages were not delivered: no answer in 1 s",
        "webhook REFUSES: 2 of 2 messages were not delivered: connection refused",
        "webhook BROKEN: 2 of 2 messages were not delivered: answered 500 Internal Server Error",
    ]
    assert sum(note.endswith("; the run goes on without") for note in notes) == 3
    assert sum(note.endswith("; the run is recorded offline") for note in notes) == 1


def test_no_secret_leaves_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights_and_biases, "INIT_S", 1)
    monkeypatch.setattr(webhook, "BACK_OFF_S", 0.01)
    monkeypatch.setattr(outside, "END_S", 60)
    caplog.set_level(logging.DEBUG)
    key = SECRET + "0" * 40
    notes: list[str] = []
    with answering(lambda request: Answer(204)) as server:
        for name, value in {"WORKS": f"{server.url}/{SECRET}", "DEAD": f"{refusing()}/{SECRET}", "WANDB_API_KEY": key}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_BASE_URL", refusing())
        settings = job(
            **{
                "tracking.wandb.project": "p",
                "tracking.tensorboard": True,
                "webhooks": [{"url_variable": "WORKS"}, {"url_variable": "DEAD"}],
            }
        )
        assert wrong_environment(settings.tracking, settings.webhooks) == []
        told = Outside(settings, tmp_path, 2, 0, notes.append)
        for event in events(tmp_path):
            told.show(event)
        lines = told.end("finished")
    assert len(server.requests) == 5
    assert all(each.path == f"/{SECRET}" for each in server.requests)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in "".join([*lines, *notes, caplog.text, *capfd.readouterr(), dump_job(settings)])
    assert lines


def test_what_the_environment_lacks_is_told_without_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setenv("BARE", f"discord.com/{SECRET}")
    monkeypatch.setenv("RIGHT", f"https://discord.com/{SECRET}")
    webhooks = [{"url_variable": name} for name in ("UNSET", "BARE", "RIGHT", "RIGHT")]
    settings = job(**{"tracking.wandb.project": "p", "webhooks": webhooks})
    assert wrong_environment(settings.tracking, settings.webhooks) == [
        "tracking.wandb: the environment variable WANDB_API_KEY is not set: set it to a key, or give mode: offline",
        "webhooks: 2 have the url_variable RIGHT: give each URL once, with all its events",
        "webhooks.0: the environment variable UNSET is not set: set it to the URL to post to",
        "webhooks.1: the environment variable BARE holds no URL: one begins with https:// and a host",
    ]
    offline = job(**{"tracking.wandb": {"project": "p", "mode": "offline"}})
    assert wrong_environment(offline.tracking, offline.webhooks) == []
    assert wrong_environment(job().tracking, job().webhooks) == []


@pytest.mark.parametrize(
    "url", ["http://", "https://:443/a", "ftp://host/a", "https://[half", "https://host:99999/a", "https://ho st/a", "a\nb"]
)
def test_what_is_no_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", url)
    assert len(wrong_environment(job().tracking, [Webhook(url_variable="A")])) == 1


def test_a_url_in_the_job_is_refused_and_not_shown(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, changed({"webhooks": [{"url_variable": f"https://discord.com/{SECRET}"}]}))
    assert mistake == ("webhooks.0: url_variable must be the name of an environment variable that holds the URL, such as RAY_S2V_WEBHOOK")


def test_unknown_events_are_told(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, changed({"webhooks": [{"url_variable": "A", "events": ["crashed"]}]}))
    assert mistake.startswith("webhooks.0.events.0: must be 'started', ")
