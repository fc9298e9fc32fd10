"""Checkpoints written beside training, and what happens where one cannot be."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from peft import LoraConfig

from ray_s2v.config.job import Job
from ray_s2v.job_file import dump_job
from ray_s2v.schema import RunStopped
from ray_s2v.training.checkpoint import State, keep_as_final, save_checkpoint
from ray_s2v.training.copies import Copies
from ray_s2v.training.json_lines import open_lines
from ray_s2v.training.progress import Assignment, Progress

MAX_REASON = 300  # characters of what a disk or a bucket said


class Saving:
    """Writes one checkpoint at a time in a thread of its own; the next waits for it, and so does the end of the block.

    What cannot be written is told each time; whether the run goes on then is for checkpoint.on_failure to say, but not of the last
    checkpoint and its adapter. `send` gets {"checkpoint": step} when one is there, and {"note": text}.
    """

    def __init__(self, assignment: Assignment, lora: LoraConfig, send: Callable[[dict[str, Any]], object]) -> None:
        self.assignment, self.lora, self.send = assignment, lora, send
        self.settings = assignment.job.checkpoint
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.thread.shutdown()
        if error is None:
            self.wait()
        elif self.writing and (failure := self.writing.exception()):  # beside what ends the run anyway
            self.send({"note": str(failure)})

    def write(self, steps_done: int, state: State) -> None:
        """Begins to write what training has come to. Raises RunStopped as `wait`."""
        self.wait()
        self.writing = self.thread.submit(self._write, steps_done, state)

    def look(self) -> None:
        """Raises RunStopped if what was begun has failed meanwhile, and that is to stop the run."""
        if self.writing and self.writing.done():
            self.wait()

    def wait(self) -> None:
        """Returns when what was begun is there, copied, or given up. Raises RunStopped as `look`."""
        writing, self.writing = self.writing, None
        if writing:
            writing.result()

    def open_lines(self, path: Path) -> Callable[[dict[str, Any]], None]:
        """Adds lines to a file of the run; on a full disk they wait in memory, if the run goes on then."""
        return open_lines(path, lambda error: self._lost(path.name, error))

    def _lost(self, what: str, error: OSError, must_stop: bool = False) -> None:
        """Tells what could not be written, and goes on or raises RunStopped as the job says."""
        told = f"{what} could not be written: {textwrap.shorten(str(error), MAX_REASON)}"
        if must_stop or self.settings.on_failure == "stop":
            raise RunStopped(told if must_stop else f"{told} (checkpoint.on_failure: continue goes on without)")
        self.send({"note": f"{told}. Training goes on"})

    def _write(self, steps_done: int, state: State) -> None:
        folder, is_last = self.assignment.checkpoints, steps_done == self.assignment.num_steps
        progress, job = Progress(steps_done, self.assignment.fingerprint), dump_job(self.assignment.job)
        try:
            saved = save_checkpoint(folder, progress, state, self.lora, job, self.settings.keep)
            if is_last:
                keep_as_final(Path(self.assignment.job.run.folder), saved)
        except OSError as error:
            self._lost(f"the checkpoint of step {steps_done}", error, must_stop=is_last)
            return
        self.send({"checkpoint": steps_done})
        if self.settings.copy_to:
            try:
                Copies(self.settings.copy_to).add(saved, self.settings.keep)
            except OSError as error:
                self._lost(f"the copy of the checkpoint of step {steps_done}", error)


def make_up(job: Job, last: Path) -> None:
    """Writes what a run lacks that was killed, or stopped, between its last checkpoint and its end: its adapter, and the last copy.

    Raises RunStopped where that cannot be written.
    """
    try:
        keep_as_final(Path(job.run.folder), last)
        if job.checkpoint.copy_to:
            copies = Copies(job.checkpoint.copy_to)
            if copies.newest() != last.name:
                copies.add(last, job.checkpoint.keep)
    except OSError as error:
        raise RunStopped(f"the adapter of {last}, or its copy, could not be written: {textwrap.shorten(str(error), MAX_REASON)}") from error
