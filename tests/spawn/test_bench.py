"""`python -m ray_s2v.bench` as a user runs it, on the CPU with a tiny network: figures, failures beside them, Ctrl-C."""

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.jobs import changed
from tests.tiny import TINY

ROOT = Path(__file__).parents[2]
MARK = "BENCH_TEST"  # in the environment of all processes of a run
pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job without clips, encoders or weights: a configuration is all that is there."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "config.json").write_text(json.dumps(TINY))
    settings = {
        "data.sources": [{"path": "nowhere", "resolution": "80x64", "num_frames": 8}],
        "model.path": str(folder),
        "model.base_precision": "fp32",
        "training.workers": 1,
        "training.worker_gpus": 0,
        "training.global_batch": 4,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(changed(settings)))
    return folder / "job.yaml"


def started(*arguments: str, mark: str = "") -> subprocess.Popen[str]:
    """A shell that runs the tests in the background makes all its processes ignore Ctrl-C; this one does not."""
    return subprocess.Popen(
        [sys.executable, "-m", "ray_s2v.bench", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: mark},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def traces(job: Path) -> Path:
    return job.parent / "made" / "traces"


@pytest.fixture(scope="module")
def comparison(job: Path) -> tuple[list[dict[str, Any]], str]:
    """Runs with one and two workers, one whose settings the network refuses, one that stops on the way, one of a single kind of batch.

    And what was printed.
    """
    variants = [
        {"name": "as it is", "set": []},
        {"name": "two workers", "set": ["training.workers=2", "zero.stage=3"]},
        {"name": "forbidden", "set": ["lora.targets=[to_x]"]},
        {"name": "stops", "set": ["training.learning_rate=1e30", "training.continuation=0"]},
        {"name": "continuations", "set": ["training.continuation=1"]},
    ]
    (job.parent / "list.yaml").write_text(yaml.safe_dump(variants))
    out = job.parent / "out.json"
    process = started(
        str(job), "--compare", str(job.parent / "list.yaml"), "--steps", "2", "--out", str(out), "--profile", str(traces(job))
    )
    printed, told = process.communicate(timeout=580)
    assert process.returncode == 0, told
    runs = json.loads(out.read_text())
    assert [run["name"] for run in runs if "failed" in run] == ["forbidden", "stops"], told
    return runs, printed


def figures(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [figure for part in value.values() for figure in figures(part)]
    if isinstance(value, list):
        return [figure for part in value for figure in figures(part)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize(("index", "workers"), [(0, 1), (1, 2)])
def test_a_report_has_figures_for_both_kinds(comparison: tuple[list[dict[str, Any]], str], index: int, workers: int) -> None:
    found = comparison[0][index]
    assert (found["card"], found["gpus"], found["bucket"]) == ("CPU", 0, "80x64@8")
    for kind in ("first", "continuation"):
        assert len(found[kind]["steps"]) == 2
        for step in found[kind]["steps"]:
            assert {key: len(values) for key, values in step.items()} == dict.fromkeys(step, workers)
            assert step["step_ms"][0] == pytest.approx(step["forward_ms"][0] + step["backward_ms"][0] + step["optimizer_ms"][0])
        assert found[kind]["tokens_per_s"] == pytest.approx(workers * found[kind]["tokens_per_s_each"])
    assert len(found["host_gib"]) == workers
    numbers = figures({key: value for key, value in found.items() if key != "settings"})
    assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert found["settings"]["training.workers"] == workers


def test_the_network_is_trained(comparison: tuple[list[dict[str, Any]], str]) -> None:
    """The loss of the same batch falls from step to step, and is that of random velocities: near 2, of noise minus latents."""
    losses = [step["loss"][0] for step in comparison[0][0]["first"]["steps"]]
    assert losses[0] == pytest.approx(2, abs=0.2)
    assert losses[1] < losses[0]


def test_failures_are_rows_and_the_rest_goes_on(comparison: tuple[list[dict[str, Any]], str]) -> None:
    runs, printed = comparison
    assert [run["name"] for run in runs] == ["as it is", "two workers", "forbidden", "stops", "continuations"]
    assert "no linear layer" in runs[2]["failed"]
    assert "not finite" in runs[3]["failed"]
    assert runs[0]["mixed"]["speed"] == 1
    assert runs[1]["mixed"]["speed"] == pytest.approx(runs[1]["mixed"]["clips_per_hour"] / runs[0]["mixed"]["clips_per_hour"])
    rows = printed.splitlines()[-5:]
    assert [row.startswith(run["name"]) for row, run in zip(rows, runs, strict=True)] == [True] * 5
    assert [f"failed: {run['failed']}" in row for row, run in zip(rows[2:4], runs[2:4], strict=True)] == [True, True]


def test_a_job_of_continuations_alone_measures_no_others(comparison: tuple[list[dict[str, Any]], str]) -> None:
    runs, _ = comparison
    found = runs[4]
    assert "first" not in found
    assert found["mixed"]["step_ms"] == found["continuation"]["step_ms"]
    assert found["continuation"]["speed"] == pytest.approx(
        found["continuation"]["clips_per_hour"] / runs[0]["continuation"]["clips_per_hour"]
    )


def test_the_first_worker_says_how_it_goes(comparison: tuple[list[dict[str, Any]], str]) -> None:
    runs, printed = comparison
    said = dict(zip([run["name"] for run in runs], [part.splitlines() for part in printed.split("\n== ")[1:]], strict=True))
    for run in (runs[0], runs[1], runs[4]):
        lines = said[run["name"]]
        assert lines[1] == run["network"]
        kinds = [kind for kind in ("first", "continuation") if kind in run]
        for kind in kinds:
            steps = [step["step_ms"][0] for step in run[kind]["steps"]]
            expected = [f"{kind} clips: step {number} of 2: {ms:.0f} ms" for number, ms in enumerate(steps, 1)]
            at = lines.index(expected[0])
            assert lines[at : at + 2] == expected
            assert lines[at - 1].startswith(f"{kind} clips: first step ")
        assert sum(" clips: step " in line for line in lines) == 2 * len(kinds)


def test_traces_of_every_worker_and_kind(job: Path, comparison: tuple[list[dict[str, Any]], str]) -> None:
    """Of one step: it has one step of the optimizer. A CPU's report says nothing of a GPU's time."""
    written = sorted(path.relative_to(traces(job)).as_posix() for path in traces(job).rglob("*.*"))
    assert written == [
        "0-as-it-is/continuation.0.json.gz",
        "0-as-it-is/first.0.json.gz",
        "1-two-workers/continuation.0.json.gz",
        "1-two-workers/continuation.1.json.gz",
        "1-two-workers/first.0.json.gz",
        "1-two-workers/first.1.json.gz",
        "4-continuations/continuation.0.json.gz",
    ]
    for file in written:
        with gzip.open(traces(job) / file, "rt") as trace:
            names = [event["name"] for event in json.load(trace)["traceEvents"]]
        assert sum(name.startswith("Optimizer.step") for name in names) == 1
        assert "aten::addmm" in names or "aten::mm" in names
    assert not any("gpu_ms" in run[kind] for run in comparison[0] for kind in ("first", "continuation") if kind in run)


@pytest.mark.parametrize("compares", [False, True])
def test_ctrl_c_ends_all_processes(job: Path, compares: bool) -> None:
    """Sent to the first process alone, as a scheduler does: a terminal would tell all."""
    mark = uuid.uuid4().hex
    (job.parent / "one.yaml").write_text("- []\n")
    process = started(str(job), "--steps", "100000", *(["--compare", str(job.parent / "one.yaml")] if compares else []), mark=mark)
    try:
        until(lambda: any("multiprocessing.spawn" in line and "spawn_main" in line for line in marked(mark)))
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
        assert process.returncode == 130
        assert told.endswith("stopped\n")
        assert "Traceback" not in told
        until(lambda: not marked(mark))
    finally:
        process.kill()


def until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def marked(mark: str) -> list[str]:
    """The command lines of all processes with this mark in their environment."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                lines.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # gone, or another user's
            continue
    return lines
