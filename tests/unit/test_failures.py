"""What a person is told of Ray's long texts."""

import traceback
from pathlib import Path

import pytest
import ray.train
import torch
from ray.exceptions import RayError, RayTaskError

from ray_s2v.data.features import Features
from ray_s2v.data.plan import Plan
from ray_s2v.model.lora import lora_config
from ray_s2v.schema import ConfigError, RunStopped
from ray_s2v.training import driver
from ray_s2v.training.checkpoint import State, save_checkpoint
from ray_s2v.training.encoding import _explained
from ray_s2v.training.failures import MAX_SHOWN, first_cause
from ray_s2v.training.progress import Assignment, Progress
from tests.plans import BUCKETS, job, many

TASK = """\
\x1b[36mray::_fill_store()\x1b[39m (pid=812, ip=10.0.0.7)
  File "/app/ray_s2v/data/store.py", line 38, in write_whole
    file.write(content)
OSError: [Errno 28] No space left on device

The above exception was the direct cause of the following exception:

ray.exceptions.UserCodeException: UDF failed to process a data block.
"""
DIED = """\
The actor died unexpectedly before finishing this task.
	class_name: MapWorker
	actor_id: 9d5f
The actor is dead because its worker process has died. Check the logs: possible causes are an error of the system, or exit code 1."""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (TASK, "OSError: [Errno 28] No space left on device"),
        (DIED, DIED.splitlines()[-1]),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB\nSet PYTORCH_ALLOC_CONF",
            "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB",
        ),
        ("Traceback:\n  x\nSystemExit: 3\nGood bye", "SystemExit: 3"),
        ("Traceback:\n  an indented ValueError: of the source\nmy.own.HTTPException: 503", "my.own.HTTPException: 503"),
        ("no name of any exception", "no name of any exception"),
        ("\n\n  only this  \n\n", "only this"),
        ("many    spaces\tin it", "many spaces in it"),
    ],
)
def test_first_exception_that_is_named(text: str, cause: str) -> None:
    assert first_cause(RuntimeError(text)) == cause


@pytest.mark.parametrize("text", ["", "  \n "])
def test_error_without_a_word_is_called_by_its_name(text: str) -> None:
    assert first_cause(MemoryError(text)) == "MemoryError"


def test_long_lines_are_cut_between_words() -> None:
    words = [f"word{number}" for number in range(200)]
    told = first_cause(ValueError("ValueError: " + " ".join(words) + "\nadvice"))
    assert len(told) <= MAX_SHOWN
    name, *shown, end = told.split()
    assert (name, end) == ("ValueError:", "[...]")
    assert shown == words[: len(shown)]
    assert len(told) > MAX_SHOWN - len("word100 ")


def from_a_task(error: Exception) -> RayError:
    """As `ray.get` raises what a task raised."""
    text = "Traceback (most recent call last):\n  File ...\n" + "".join(traceback.format_exception_only(error))
    return RayTaskError("_fill_store", text, error, proctitle="ray::_fill_store()", pid=7, ip="10.0.0.7").as_instanceof_cause()


def test_users_mistake_in_a_task_is_told_in_its_own_words() -> None:
    mistake = ConfigError("/weights/vae: cannot load AutoencoderKLWan: no file named config.json\nin any folder")
    found = from_a_task(mistake)
    assert str(mistake) in str(found)
    assert "ray::_fill_store()" in str(found), "Ray's own text holds more"
    told = _explained(found)
    assert type(told) is ConfigError
    assert str(told) == str(mistake)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (from_a_task(OSError(28, "No space left on device")), "OSError: [Errno 28] No space left on device"),
        (RayError(DIED), DIED.splitlines()[-1]),
    ],
)
def test_any_other_failure_stops_the_run_with_its_cause(error: RayError, cause: str) -> None:
    told = _explained(error)
    assert type(told) is RunStopped
    assert str(told).startswith(f"encoding stopped: {cause}. ")
    assert "goes on" in str(told)
    assert len(str(told).splitlines()) == 1


GOES_ON = "The last checkpoint is of step 4 of 6; the same command goes on from there"


def assignment(folder: Path, steps_done: int) -> Assignment:
    """Of a run of 6 steps with a checkpoint, or without one yet."""
    base = job(slots=4, steps=6, max_failures=2)
    here = base.model_copy(update={"run": base.run.model_copy(update={"folder": str(folder)})})
    features = Features(str(folder / "store"), streams=True, vae="vae", speech="speech", text="text", dtype="fp16")
    found = Assignment(here, Plan.of(here, many(8, 200, BUCKETS[3])), [], "plan", features, 6, None)
    if steps_done:
        adapter = {"base_model.model.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 3)}
        state = State(adapter, adapter)
        save_checkpoint(found.checkpoints, Progress(steps_done, "plan"), state, lora_config(2, 2, 0.0, ["to_q"], "all"), "job", keep=1)
    return found


def test_what_stops_the_run_on_a_worker_is_told_with_what_is_kept(tmp_path: Path) -> None:
    stop = ray.train.ControllerError(RunStopped("step 5, worker 1: does not fit"))
    early = driver._explained(stop, assignment(tmp_path, steps_done=0))
    late = driver._explained(stop, assignment(tmp_path, steps_done=4))
    assert (type(early), str(early)) == (RunStopped, "step 5, worker 1: does not fit. No checkpoint was made yet")
    assert (type(late), str(late)) == (RunStopped, f"step 5, worker 1: does not fit. {GOES_ON}")


def test_users_mistake_on_a_worker_is_told_in_its_own_words(tmp_path: Path) -> None:
    mistake = ConfigError("offload.disk_path: cannot hold the weights")
    assert driver._explained(ray.train.ControllerError(mistake), assignment(tmp_path, steps_done=4)) is mistake


def test_failures_that_were_tried_again_are_told_of_each_worker(tmp_path: Path) -> None:
    failures: dict[int, Exception] = {1: ValueError("one\nValueError: bad"), 0: RuntimeError("gone")}
    told = driver._explained(ray.train.WorkerGroupError("long", failures), assignment(tmp_path, steps_done=4))
    assert type(told) is RunStopped
    assert str(told).startswith("training failed 3 times, the last time by\n  worker 0: gone\n  worker 1: ValueError: bad\n")
    assert str(told).endswith(GOES_ON)


def test_failure_of_the_controller_itself_is_told(tmp_path: Path) -> None:
    told = driver._explained(ray.train.ControllerError(OSError(28, "No space left on device")), assignment(tmp_path, steps_done=0))
    assert type(told) is RunStopped
    assert "No space left on device" in str(told)
    assert str(told).endswith("No checkpoint was made yet")
