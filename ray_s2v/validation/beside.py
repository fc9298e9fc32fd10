"""Validation videos beside training: of each checkpoint that is due, one checkpoint at a time. Never the cause of a failed run."""

from __future__ import annotations

import json
import shlex
import shutil
import threading
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ray_s2v.cluster.capacity import for_validation
from ray_s2v.config.job import Job
from ray_s2v.config.validation import Scene
from ray_s2v.model.lora import ADAPTER_FILE
from ray_s2v.schema import RunStopped
from ray_s2v.training.checkpoint import AVERAGE
from ray_s2v.training.interrupt import until_done
from ray_s2v.training.json_lines import open_lines
from ray_s2v.validation.making import Making

if TYPE_CHECKING:
    from ray_s2v.training.prepare import Prepared

TELL_EVERY_S = 30.0
TICK_S = 0.5
ADAPTERS = "adapters"  # while videos are made of them
FINAL = {"online": "adapter", "ema": f"adapter_{AVERAGE}"}
FOLDERS = {"online": "", "ema": AVERAGE}  # of a checkpoint


class Beside:
    """What training/driver.py calls so. The newest checkpoint that is due waits for the one at work; its adapter is copied as soon as
    it is heard of, for it may be pruned.
    """

    def __init__(
        self,
        prepared: Prepared,
        report: Callable[[dict[str, Any]], None],
        note: Callable[[str], None],
        begin: Callable[[Job, Path], Making] = Making,
    ) -> None:
        """`report` gets {"preview": of a video that is being made} and {"validation": what came of a checkpoint's videos},
        `note` what else a person should know."""
        self.job, self.num_steps, self.report, self.note, self.begin = prepared.job, prepared.num_steps, report, note, begin
        assert self.job.validation
        self.settings, self.scenes = self.job.validation, self.job.validation.all_scenes()
        self.run = Path(self.job.run.folder)
        self.log = self.run / "validation.jsonl"
        own = prepared.start_from and prepared.start_from.parent == self.run / "checkpoints"
        self.owed = prepared.first_step if own else None  # an earlier life of the run may have made no videos of it
        self.making: Making | None = None
        self.step = self.next = -1  # of what is at work, and of what waits for it; -1 for nothing
        self.idle = threading.Event()
        self.idle.set()
        self.told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Ends what is at work."""
        if self.making:
            self.making.end()
            self._remove_adapter(self.step)
            self._drop_next()

    def hear(self, record: dict[str, Any]) -> None:
        """Takes the records of training; by the first of them the workers have their places."""
        self._catch_up()
        if "checkpoint" in record:
            self._take(record["checkpoint"])

    def look(self) -> None:
        """To be called again and again: sees to what is over, what waits, and what there is to say."""
        if self.making:
            for scene, file in self.making.new_previews():
                self.report({"preview": {"step": self.step, "scene": scene, "video": file.relative_to(self.run).as_posix()}})
            if self.making.is_over():
                self._close(self.making)
        if not self.making and self.next >= 0:
            self.step, self.next, self.told_at = self.next, -1, time.monotonic()
            self.making = self.begin(self.job, self._home(self.step))
        if self.making and time.monotonic() - self.told_at >= TELL_EVERY_S:
            self.told_at = time.monotonic()
            waits = f"not begun yet; they wait for {for_validation(self.job)[0].wants()}"
            self.note(f"videos of step {self.step}: {self.making.doing() or waits}")
        if not self.making:
            self.idle.set()

    def finish(self) -> None:
        """After training: waits for the last videos, but not for ever. Raises KeyboardInterrupt after Ctrl-C."""
        self.owed = self.num_steps  # which may not have been heard of, as training's processes end
        self._catch_up()
        if self.making:
            limit_s = self.settings.timeout_s
            self.note(f"training is done; the videos of step {max(self.step, self.next)} are waited for, at most {limit_s:g} s")
            if not until_done(partial(self.idle.wait, limit_s), self._tick):
                self._give_up(self.making)

    def _tick(self) -> None:
        self.look()
        time.sleep(TICK_S)

    def _catch_up(self) -> None:
        """Takes the checkpoint that is owed, if its videos are due and nobody has tried to make them."""
        step, self.owed = self.owed, None
        if step is not None and step not in (self.step, self.next):
            lines = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
            if step not in {json.loads(line)["step"] for line in lines.rpartition("\n")[0].splitlines()}:
                self._take(step)

    def _take(self, step: int) -> None:
        """Puts a checkpoint in line, if its videos are due."""
        if not self.settings.due(step, self.num_steps):
            return
        if self.next >= 0:
            self.note(f"the videos of step {self.next} are left out: step {step} is due, and those of step {self.step} are not done yet")
            self._drop_next()
        home, checkpoint = self._home(step), self.run / "checkpoints" / f"step_{step:06d}"
        try:
            if home.exists():  # of an earlier life of the run
                shutil.rmtree(home)
            for weights in self.settings.made_with():
                (home / ADAPTERS / weights).mkdir(parents=True)
                for name in (ADAPTER_FILE, "adapter_config.json"):
                    shutil.copy(checkpoint / FOLDERS[weights] / name, home / ADAPTERS / weights / name)
        except OSError as error:
            self.note(f"the videos of step {step} are left out: {error}")
            shutil.rmtree(home, ignore_errors=True)
            return
        self.next = step
        self.idle.clear()
        self.look()

    def _close(self, making: Making) -> None:
        try:
            self._tell(self.step, making.failed())
        except RunStopped as death:
            self._tell(self.step, dict.fromkeys(self._missing(self.step), str(death)))
        self.making = None

    def _tell(self, step: int, failed: dict[str, str]) -> None:
        """Notes and reports what came of a checkpoint's videos."""
        made = [name for name in self.settings.video_names() if name not in failed]
        videos = {name: (self._home(step) / f"{name}.mp4").relative_to(self.run).as_posix() for name in made}
        line = {"step": step, "videos": videos, "failed": failed}
        self._add_line(line)
        self._remove_adapter(step)
        self.report({"validation": line})

    def _give_up(self, making: Making) -> None:
        """Ends what is at work and what waits, and says how it can be made."""
        making.end()
        self.making, steps = None, [step for step in (self.step, self.next) if step >= 0]
        why = f"not done {self.settings.timeout_s:g} s after training (validation.timeout_s)"
        for step in steps:
            missing = self._missing(step)
            self._tell(step, dict.fromkeys(missing, why))
        self.next = -1
        if steps[-1] == self.num_steps:
            names = {
                self.settings.video_name(scene.name, weights): (scene, weights)
                for weights in self.settings.made_with()
                for scene in self.scenes
            }
            commands = [f"  {self._command(name, *names[name])}" for name in missing]
            self.note("\n".join(["these make them:", *commands]))

    def _command(self, name: str, scene: Scene, weights: str) -> str:
        """What makes a scene's video of all that the run has learnt."""
        given = {"picture": scene.picture, "speech": scene.speech, "prompt": scene.prompt, "seconds": scene.seconds}
        places = {"adapter": self.run / FINAL[weights], "out": self._home(self.num_steps) / f"{name}.mp4"}
        options = [f"--{name}={value}" for name, value in (given | places).items() if value is not None]
        return shlex.join(["python", "-m", "ray_s2v.sample", str(self.run / "job.yaml"), *options])

    def _missing(self, step: int) -> list[str]:
        return [name for name in self.settings.video_names() if not (self._home(step) / f"{name}.mp4").is_file()]

    def _drop_next(self) -> None:
        if self.next >= 0:
            shutil.rmtree(self._home(self.next), ignore_errors=True)
            self.next = -1

    def _remove_adapter(self, step: int) -> None:
        shutil.rmtree(self._home(step) / ADAPTERS, ignore_errors=True)

    def _home(self, step: int) -> Path:
        return self.run / "validation" / f"step_{step:06d}"

    @cached_property
    def _add_line(self) -> Callable[[dict[str, Any]], None]:
        return open_lines(self.log, lambda error: self.note(f"videos are not noted: {error}"))
