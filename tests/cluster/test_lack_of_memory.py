"""A worker that runs out of memory ends the run at once, though the others wait for it: the next try would meet the same end."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.training.progress import complete_checkpoints
from tests.cluster.conftest import SHORT, records, wait_for_step

pytestmark = pytest.mark.timeout(300)

MIB = 2**20
WATCHED_S = 4.0  # a step or more
LEFT = 32 * MIB  # above what a worker has between its steps: enough to say what happened, too little for an activation


@pytest.fixture(scope="module")
def wide_network(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network with a feed-forward so wide that each of its activations takes 45 MB, which no process has lying by."""
    config = WanS2VTransformer3DModel.from_pretrained(demo_files / "weights", torch_dtype=torch.float32).config
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    settings |= {"ffn_dim": 2**16, "num_layers": 1, "audio_inject_layers": (0,)}
    folder = tmp_path_factory.mktemp("wide")
    with torch.random.fork_rng():
        WanS2VTransformer3DModel(**settings).save_pretrained(folder)
    return folder


def private_memory(pid: int) -> int:
    """Bytes of a process's own memory: what RLIMIT_DATA limits."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmData:")]
    return int(line.split()[1]) * 1024


def take_memory_away(pid: int) -> None:
    """Leaves a process hardly more memory than it has between its steps."""
    seen = []
    end = time.monotonic() + WATCHED_S
    while time.monotonic() < end:
        seen.append(private_memory(pid))
        time.sleep(0.01)
    assert max(seen) > min(seen) + 2 * LEFT, "its steps take more, or nothing would be taken away"
    resource.prlimit(pid, resource.RLIMIT_DATA, (min(seen) + LEFT, resource.RLIM_INFINITY))


def test_one_worker_in_mid_run(start: Callable, wide_network: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    size = ["training.steps=48", "training.global_batch=2", "held_out.every=48"]  # what is measured between steps takes memory too
    process = start(*SHORT, *size, f"run.folder={run}", f"model.path={wide_network}")
    wait_for_step(run, 4, process)
    workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in child.name()]
    assert len(workers) == 2
    take_memory_away(workers[1])
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1, said

    steps = [record["step"] for record in records(run)]
    assert steps == list(range(len(steps))), "tried once"
    (told,) = [line for line in said.splitlines() if "does not fit" in line]
    assert told.startswith(f"step {len(steps)}, worker "), "the step that was not done"
    assert "DefaultCPUAllocator: can't allocate memory: you tried to allocate" in told
    assert "GiB of host memory were in use" in told
    assert "model.base_precision=int8" in told
    last = len(steps) // 3 * 3
    assert told.endswith(f"The last checkpoint is of step {last} of 48; the same command goes on from there")
    assert complete_checkpoints(run / "checkpoints")[-1][0] == last
    assert "failed" not in said
    assert "Traceback" not in said


def test_users_mistake_that_a_worker_finds(start: Callable, tmp_path: Path) -> None:
    """As with memory that runs out; here before the first step, while the other worker is loading."""
    (tmp_path / "file").touch()
    process = start(*SHORT, f"run.folder={tmp_path / 'run'}", "offload.blocks=true", f"offload.disk_path={tmp_path / 'file' / 'folder'}")
    said = process.communicate(timeout=90)[0]
    assert process.returncode == 2, said
    assert said.count("offload.disk_path: ") == 1
    assert "failed" not in said
    assert "Traceback" not in said
    assert records(tmp_path / "run") == []
