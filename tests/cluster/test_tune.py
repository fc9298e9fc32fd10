"""Sweeps as a person runs them: killed and run again, ended early, stopped by Ctrl-C, with trials that fail, and with a population."""

import csv
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from ray_s2v.job_file import load_job
from ray_s2v.tuning.records import load_records
from tests.cluster.conftest import JOB, records

pytestmark = pytest.mark.timeout(900)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def common(places: list[str], store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the jobs of all sweeps here have in common: the demo's files, one worker, and a store that the first sweep completes."""
    shared = tmp_path_factory.mktemp("shared") / "store"
    shutil.copytree(store, shared)
    shutil.rmtree(shared / "features/text")
    settings = {key: value for key, _, value in (place.partition("=") for place in places)}
    held_out = {"held_out.levels": 1, "held_out.clips": 2}
    return {**settings, **held_out, "data.store": str(shared), "training.workers": 1}


@pytest.fixture
def start_sweep(run: Start, common: dict[str, Any], tmp_path: Path) -> Start:
    """Writes a sweep's file and starts it."""

    def start_sweep(settings: dict[str, Any], sets: dict[str, Any]) -> subprocess.Popen[str]:
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump({"folder": str(tmp_path / "sweep"), "job": str(JOB), "set": {**common, **sets}, **settings}))
        return run("tune", str(file))

    return start_sweep


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], timeout_s: float = 400) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def states(sweep: Path) -> dict[str, str]:
    return {record.name: record.state for record in load_records(sweep)}


def files_of(folder: Path) -> dict[str, int]:
    """When each file of a trial was last changed."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def said_by(process: subprocess.Popen[str], exit_code: int, timeout_s: float = 600) -> str:
    said = process.communicate(timeout=timeout_s)[0]
    assert process.returncode == exit_code, said
    assert "Traceback" not in said
    return said


def test_grid_killed_in_its_midst_goes_on(start_sweep: Start, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    settings = {
        "search": "grid",
        "space": {
            "training.learning_rate": {"values": [1e-3, 3e-3, 1e-2]},
            "tread.routes.0.selection_ratio": {"values": [0.25]},
        },
    }
    route = {"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": -2}
    sets = {"training.steps": 4, "held_out.every": 2, "checkpoint.every": 2, "tread.routes": [route]}
    killed = start_sweep(settings, sets)
    wait_for(lambda: len(load_records(sweep)) >= 3 and load_records(sweep)[2].points, killed)
    everything = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    before = load_records(sweep)
    done = [trial for trial in before if trial.state == "done"]
    assert done, "two run side by side, and the third begins when one of them is done"
    assert {row["state"] for row in csv.DictReader((sweep / "sweep.csv").open())} >= {"done"}, "renewed as trials end"
    assert yaml.safe_load((sweep / "best.yaml").read_text())["training"]["steps"] == 4
    _, alive = psutil.wait_procs(everything, timeout=30)
    assert not [process for process in alive if "Agent" not in process.name()], "its Ray and its runs died with it"
    first = {trial.name: files_of(sweep / "trials" / trial.name) for trial in done}

    said = said_by(start_sweep(settings, sets), 0)
    assert {trial.name: files_of(sweep / "trials" / trial.name) for trial in done} == first, "what is done is left alone"
    assert not [trial for trial in done if f"{trial.name} " in said.partition("3 trials: 3 done")[0]]
    assert "trial_003 goes on after step" in said
    assert "3 trials of 4 steps, 2 at a time" in said
    assert " encoders run" not in said
    assert "text 1/" not in said, "the store was full"
    assert states(sweep) == {f"trial_00{number}": "done" for number in range(1, 4)}
    trials = load_records(sweep)
    assert [step for step, _ in trials[2].points] == [0, 2, 4]
    assert trials[2].points[: len(before[2].points)] == before[2].points
    assert [trial.values for trial in trials] == [
        {"training.learning_rate": rate, "tread.routes.0.selection_ratio": 0.25} for rate in (1e-3, 3e-3, 1e-2)
    ]
    for trial in trials:
        lines = [json.loads(line) for line in (Path(trial.folder) / "held_out.jsonl").read_text().splitlines()]
        assert dict(trial.points) == {line["step"]: line["loss"] for line in lines}
        assert all(len(line["clips"]) == 4 for line in lines), "two clips, each as a first clip and as a continuation"
        assert load_job(f"{trial.folder}/job.yaml").training.learning_rate == trial.values["training.learning_rate"]
        assert not (Path(trial.folder) / "store").exists()
    best = min(trials, key=lambda trial: trial.points[-1][1])
    best_job = load_job(str(sweep / "best.yaml"))
    assert best_job.training.learning_rate == best.values["training.learning_rate"]
    assert best_job.tread.routes[0].selection_ratio == best.values["tread.routes.0.selection_ratio"]
    assert best_job.run.folder not in {trial.folder for trial in trials}
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(csv.DictReader((sweep / "sweep.csv").open()))) == 3

    changed = said_by(start_sweep(settings, {**sets, "training.steps": 6}), 2)
    assert "training.steps was 4, is 6" in changed
    assert states(sweep) == {f"trial_00{number}": "done" for number in range(1, 4)}


def run_processes(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(driver.pid).children(recursive=True) if "ray_s2v.tuning.one_run" in " ".join(child.cmdline())]


@pytest.mark.long
def test_asha_ctrl_c_and_a_trial_that_fails(start_sweep: Start, tmp_path: Path) -> None:
    """Of the second trial it is known after two steps that the first did better; the third's losses are not finite."""
    sweep = tmp_path / "sweep"
    settings = {
        "search": "grid",
        "space": {"training.learning_rate": {"values": [1e-2, 1e-9, 1e30]}},
        "at_once": 1,
        "asha": {"grace_steps": 2, "reduction_factor": 2},
    }
    sets = {"training.steps": 4, "held_out.every": 2, "checkpoint.every": 2}
    stopped = start_sweep(settings, sets)
    wait_for(lambda: load_records(sweep) and len(load_records(sweep)[0].points) >= 2, stopped)
    asked = time.monotonic()
    stopped.send_signal(signal.SIGINT)
    said = said_by(stopped, 130, timeout_s=60)
    assert time.monotonic() - asked < 20
    assert "stopped; the same command goes on with the trials that are not done" in said

    going_on = start_sweep(settings, sets)
    wait_for(lambda: states(sweep).get("trial_002") == "stopped early", going_on)
    early = run_processes(going_on)
    _, alive = psutil.wait_procs(early, timeout=10)
    assert not alive, "nothing of it goes on"
    said = said_by(going_on, 0)
    assert states(sweep) == {"trial_001": "done", "trial_002": "stopped early", "trial_003": "failed"}
    first, second, third = load_records(sweep)
    assert [step for step, _ in first.points] == [0, 2, 4]
    assert [step for step, _ in second.points] == [0, 2]
    assert first.points[1][1] < second.points[1][1]
    assert "not finite" in third.error
    assert "trial_003 failed: " in said
    assert (Path(first.folder) / "adapter").is_dir()
    assert not (Path(second.folder) / "adapter").exists()


@pytest.mark.long
def test_population(start_sweep: Start, tmp_path: Path) -> None:
    """The trial that does badly goes on from the other's checkpoint, with another learning rate."""
    sweep = tmp_path / "sweep"
    settings = {
        "search": "random",
        "trials": 2,
        "seed": 1,
        "space": {"training.learning_rate": {"log_uniform": [1e-6, 1e-2]}},
        "pbt": {"every_steps": 6, "quantile": 0.5, "resample": 0.0},
    }
    # One takes over from another of which Tune has heard again after it had heard of both, and which is not done: six steps take longer
    # than what one begins before the other.
    sets = {"training.steps": 24, "held_out.every": 6, "checkpoint.every": 6, "training.warmup_steps": 1, "checkpoint.keep": 4}
    process = start_sweep(settings, sets)
    said = said_by(process, 0)
    trials = {trial.name: trial for trial in load_records(sweep)}
    assert {trial.state for trial in trials.values()} == {"done"}, said
    taken = sorted((sweep / "trials").glob("*/from_*"))
    assert taken, said
    for run in taken:
        check_taken_over(run)
    assert any(trial.folder in map(str, taken) for trial in trials.values())


def losses_of(run: Path) -> dict[int, float]:
    """The held-out loss at each step at which a run measured it."""
    return {line["step"]: line["loss"] for line in map(json.loads, (run / "held_out.jsonl").read_text().splitlines())}


def check_taken_over(run: Path) -> None:
    """A run in a folder below its trial's began with another's checkpoint, its weights and moments, at its step, and went on otherwise."""
    name, step = run.name[len("from_") :].partition("_step_")[0], int(run.name.partition("_step_")[2][:6])
    assert name != run.parent.name
    job = load_job(str(run / "job.yaml"))
    donated = Path(job.checkpoint.resume)
    after = losses_of(run)
    home = run.parents[1] / name
    # Tune keeps four of a trial's checkpoints, and may have removed the one that was handed on.
    saved = [folder for folder in (home, *home.glob("from_*")) if (folder / f"checkpoints/step_{step:06d}").is_dir()]
    donor = next(folder for folder in saved if losses_of(folder)[step] == pytest.approx(after[step], abs=1e-6))
    kept = donor / f"checkpoints/step_{step:06d}"
    for file in ("adapter_model.safetensors", "optimizer.safetensors") if donated.exists() else ():
        there, copied = load_file(kept / file), load_file(donated / file)
        assert there.keys() == copied.keys()
        assert all((there[key] == copied[key]).all() for key in there)
    assert min(after) == step
    rate, donors = job.training.learning_rate, load_job(str(donor / "job.yaml")).training.learning_rate
    assert rate == pytest.approx(1.2 * donors) or rate == pytest.approx(0.8 * donors) or rate == 1e-2
    assert records(run)[0]["step"] == step
    shape = {record["step"]: record["learning_rate"] / donors for record in records(donor)}
    for record in records(run):
        if record["step"] in shape:
            assert record["learning_rate"] == pytest.approx(rate * shape[record["step"]])
