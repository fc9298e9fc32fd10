"""Curves and videos at W&B, as wandb brings them to a server, over resumed runs and servers that are dead."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ray_s2v.config.tracking import WeightsAndBiases
from ray_s2v.reporting.delivery import Delivery, NotDelivered, end_all
from ray_s2v.reporting.messages import Figures, Video
from ray_s2v.reporting.services import weights_and_biases
from tests.servers import hanging, refusing
from tests.trackers import moving_square, points, session
from tests.wandb_server import wandb_server

WANDB = Path(sys.executable).with_name("wandb")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_square(tmp_path_factory.mktemp("videos") / "anna.mp4")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets W&B's server, and a key."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(weights_and_biases, "INIT_S", 2)
    monkeypatch.setattr(weights_and_biases, "FINISH_S", 2)
    return lambda url: monkeypatch.setenv("WANDB_BASE_URL", url)


def run_at_wandb(folder: Path, said: list[str] | None = None, **settings: object) -> weights_and_biases.Tracker:
    config = {"training": {"steps": 9}, "run": {"folder": str(folder)}}
    return weights_and_biases.Tracker(WeightsAndBiases(project="p", **settings), folder, config, (said if said is not None else []).append)


def sync(line: str) -> None:
    """Runs the command that a line of ours names."""
    command = line.split("`")[1].split()
    assert command[0] == "wandb"
    subprocess.run([WANDB, *command[1:]], check=True, capture_output=True, timeout=60, cwd=Path(command[-1]).parent)


def processes(url: str) -> list[str]:
    """Those that were started with this as W&B's server, beside our own."""
    found = psutil.process_iter(["name", "status", "environ"], ad_value={})
    others = [process.info for process in found if process.pid != os.getpid()]
    return [each["name"] for each in others if each["status"] != "zombie" and (each["environ"] or {}).get("WANDB_BASE_URL") == url]


def test_wandb_gets_curves_videos_and_the_job_and_a_resumed_run_goes_on(tmp_path: Path, video: Path, at: Callable) -> None:
    said: list[str] = []
    with wandb_server() as kept:
        at(kept.url)
        late = Video(2, "validation/anna", video)
        held_out = Figures(4, {"held_out/loss": 0.5})
        assert session(run_at_wandb(tmp_path, said, tags=["a", "b"], name="first"), [*points(range(1, 5)), held_out, late]) == []
        assert session(run_at_wandb(tmp_path, said, tags=["a", "b"], name="first"), points(range(3, 7), lambda step: -step)) == []
    ((run_id, run),) = kept.runs.items()
    assert run_id == (tmp_path / "wandb" / "run_id").read_text()
    assert said == [f"W&B: {kept.url}/someone/p/runs/{run_id}"] * 2
    # A step that comes twice is a second point there, and none is dropped: wandb's own steps go on.
    assert run.points("train/loss") == [(1, 1), (2, 2), (3, 3), (4, 4), (3, -3), (4, -4), (5, -5), (6, -6)]
    assert [line["_step"] for _, line in sorted(run.lines.items())] == list(range(10))
    assert run.points("held_out/loss") == [(4, 0.5)]
    ((step, shown),) = run.points("validation/anna")
    assert (step, shown["_type"]) == (2, "video-file")
    assert kept.files[shown["path"]] == video.read_bytes()
    assert shown["sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()
    assert run.config["training"]["value"] == {"steps": 9}
    # Charts are drawn over our steps: metric 1 is all, over the metric in place 5.
    metrics = run.config["_wandb"]["value"]["m"]
    every = next(metric for metric in metrics if metric.get("2") == "*")
    assert metrics[every["5"] - 1]["1"] == "step"
    assert (run.tags, run.name, run.exit_codes) == (["a", "b"], "first", [0, 0])


def test_wandb_is_told_that_a_run_failed(tmp_path: Path, at: Callable) -> None:
    with wandb_server() as kept:
        at(kept.url)
        delivery = Delivery(run_at_wandb(tmp_path), print)
        delivery.put(Figures(1, {"train/loss": 1}))
        assert end_all([delivery], True, within_s=60) == []
    assert [run.exit_codes for run in kept.runs.values()] == [[1]]


def test_wandb_hears_nothing_of_a_run_that_came_to_nothing(tmp_path: Path, at: Callable) -> None:
    with wandb_server() as kept:
        at(kept.url)
        assert session(run_at_wandb(tmp_path), []) == []
    assert kept.requests == list(tmp_path.iterdir()) == []


def test_wandb_offline_is_uploaded_by_the_command_that_is_named(tmp_path: Path, video: Path, at: Callable) -> None:
    at(refusing())
    (first,) = session(run_at_wandb(tmp_path, mode="offline"), [*points(range(1, 5)), Video(2, "validation/anna", video)])
    (second,) = session(run_at_wandb(tmp_path, mode="offline"), points(range(3, 7), lambda step: -step))
    for line in (first, second):
        assert line.startswith(f"W&B: `wandb sync {tmp_path}/wandb/offline-run-")
    with wandb_server() as kept:
        at(kept.url)
        sync(first)
        sync(second)
    (run,) = kept.runs.values()
    assert run.points("train/loss") == [(1, 1), (2, 2), (3, 3), (4, 4), (3, -3), (4, -4), (5, -5), (6, -6)]
    assert video.read_bytes() in kept.files.values()


@pytest.mark.parametrize("dead", ["refusing", "hanging"])
def test_wandb_that_does_not_answer_is_recorded_offline(dead: str, tmp_path: Path, at: Callable) -> None:
    said: list[str] = []
    with hanging() as hangs:
        at(hangs if dead == "hanging" else refusing())
        (line,) = session(run_at_wandb(tmp_path, said), points(range(1, 5)))
    assert len(said) == 1
    assert said[0].endswith("; the run is recorded offline")
    with wandb_server() as kept:
        at(kept.url)
        sync(line)
    assert [run.points("train/loss") for run in kept.runs.values()] == [[(1, 1), (2, 2), (3, 3), (4, 4)]]


def test_wandb_that_dies_in_mid_run_loses_nothing(tmp_path: Path, at: Callable) -> None:
    service = run_at_wandb(tmp_path)
    with wandb_server() as kept:
        at(kept.url)
        for message in points(range(1, 3)):
            service.deliver(message)
        port = int(kept.url.rpartition(":")[2])
    for message in points(range(3, 5)):
        service.deliver(message)
    began = time.monotonic()
    with pytest.raises(NotDelivered, match="not all was uploaded in 2 s"):
        service.close(False)
    assert time.monotonic() - began < 2 + 10  # wandb without our limit: for ever
    with wandb_server(kept, port):
        sync(service.remark())
    assert [run.points("train/loss") for run in kept.runs.values()] == [[(1, 1), (2, 2), (3, 3), (4, 4)]]


def test_wandb_that_has_no_time_leaves_no_process(tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_and_biases, "INIT_S", 60)
    with hanging() as url:
        at(url)
        delivery = Delivery(run_at_wandb(tmp_path), print)
        delivery.put(Figures(1, {"train/loss": 1}))
        began = time.monotonic()
        time.sleep(0.5)
        assert processes(url)
        (line,) = end_all([delivery], False, within_s=0.5)
        assert time.monotonic() - began < 5
    assert line == "W&B: 1 of 1 messages were not delivered: no answer yet when the time for it was up"
    assert none_left(url, within_s=5)


def none_left(url: str, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while processes(url) and time.monotonic() < until:
        time.sleep(0.1)
    return not processes(url)


def test_wandb_keeps_what_a_killed_run_told(tmp_path: Path, at: Callable) -> None:
    at(url := refusing())
    run = f"""
import os, signal, time
from pathlib import Path
from ray_s2v.config.tracking import WeightsAndBiases
from ray_s2v.reporting.messages import Figures
from ray_s2v.reporting.services.weights_and_biases import Tracker
tracker = Tracker(WeightsAndBiases(project="p", mode="offline"), Path({str(tmp_path)!r}), {{}}, print)
for step in range(1, 5):
    tracker.deliver(Figures(step, {{"train/loss": float(step)}}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", run], env=os.environ, timeout=60).returncode == -signal.SIGKILL
    assert none_left(url, within_s=10)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    with wandb_server() as kept:
        at(kept.url)
        sync(f"`wandb sync {folder}`")
    (kept_run,) = kept.runs.values()
    assert kept_run.points("train/loss") == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert kept_run.exit_codes == [1]


def test_wandb_key_stands_nowhere(tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "planted" + "0123456789abcdef" * 3
    with wandb_server() as kept:
        at(kept.url)
        monkeypatch.setenv("WANDB_API_KEY", key)
        session(run_at_wandb(tmp_path), points(range(1, 3)))
    assert any("authorization" in map(str.lower, request.headers) for request in kept.requests)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if key.encode() in path.read_bytes()] == []
    assert key not in json.dumps([run.config for run in kept.runs.values()])
