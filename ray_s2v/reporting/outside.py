"""A run as services outside of it hear of it: curves and videos to trackers, events to webhooks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal

from ray_s2v.config.job import Job
from ray_s2v.config.tracking import Kind, wrong_environment
from ray_s2v.reporting.charts import held_out_charts, step_charts
from ray_s2v.reporting.delivery import Delivery, Service, end_all
from ray_s2v.reporting.hub import check_hub
from ray_s2v.reporting.messages import Event, Figures, Message, Video
from ray_s2v.schema import ConfigError

END_S = 20.0  # that all services together get in the end to take what waits
STOPPED_S = 8.0  # after Ctrl-C, when somebody waits for the prompt


def check_services(job: Job) -> None:
    """Raises ConfigError listing what the environment lacks for telling the services that the job names; asks none of them."""
    if wrong := [*wrong_environment(job.tracking, job.webhooks), *(check_hub(job.hub) if job.hub else [])]:
        raise ConfigError("\n".join(wrong))


class Outside:
    """Passes on what training/driver.py's run_training reports. Only `end` waits for a service, for END_S or STOPPED_S."""

    def __init__(self, job: Job, folder: Path, num_steps: int, first_step: int, note: Callable[[str], None]) -> None:
        self.folder, self.num_steps, self.note = folder, num_steps, note
        self.on_gpus = job.training.worker_gpus > 0
        self.steps_done = first_step
        self.last_figures: dict[str, float] = {}
        self.said: SimpleQueue[str] = SimpleQueue()  # by the services' threads
        self.trackers = [Delivery(service, self.said.put) for service in _trackers(job, folder, first_step, self.said.put)]
        self.webhooks = [(Delivery(service, self.said.put), set(events)) for service, events in _webhooks(job)]
        self._announce("started", first_step)

    def show(self, event: dict[str, Any]) -> None:
        """Takes what `report` of run_training gets."""
        self._pass_on_notes()
        if "held_out" in event:
            record = event["held_out"]
            figures = held_out_charts(record)
            self.last_figures |= figures
            self._track(Figures(record["step"], figures))
            self._announce("held_out", record["step"], figures)
        elif "validation" in event:
            self._validated(**event["validation"])
        elif "preview" in event:
            preview = event["preview"]
            self._announce("preview", preview["step"], videos={preview["scene"]: self.folder / preview["video"]})
        elif "checkpoint" in event:
            self._announce("checkpoint", event["checkpoint"], self.last_figures)
        else:
            self.steps_done = event["step"] + 1
            figures = step_charts(event, self.on_gpus)
            self.last_figures |= figures
            self._track(Figures(self.steps_done, figures))

    def end(self, outcome: Literal["finished", "failed", "stopped"], error: str = "") -> list[str]:
        """Tells how the run ended, and returns what the services did not take, a line each. error: its first line."""
        self._announce(outcome, self.steps_done, self.last_figures, text=error)
        deliveries = [*self.trackers, *(delivery for delivery, _ in self.webhooks)]
        lines = end_all(deliveries, outcome != "finished", STOPPED_S if outcome == "stopped" else END_S)
        self._pass_on_notes()
        return lines

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends it as the run ends, and notes what was not taken."""
        if error is None:
            lines = self.end("finished")
        elif isinstance(error, KeyboardInterrupt):
            lines = self.end("stopped")
        else:
            lines = self.end("failed", f"{type(error).__name__}: {error}".split("\n", 1)[0])
        for line in lines:
            self.note(line)

    def _validated(self, step: int, videos: dict[str, str], failed: dict[str, str]) -> None:
        paths = {scene: self.folder / path for scene, path in videos.items()}
        for scene, path in paths.items():
            self._track(Video(step, f"validation/{scene}", path))
        text = "\n".join(f"{scene} failed: {reason}" for scene, reason in failed.items())
        self._announce("validation", step, videos=paths, text=text)

    def _track(self, message: Message) -> None:
        for tracker in self.trackers:
            tracker.put(message)

    def _announce(
        self, kind: Kind, step: int, figures: dict[str, float] | None = None, videos: dict[str, Path] | None = None, text: str = ""
    ) -> None:
        event = Event(kind, self.folder.name, step, self.num_steps, dict(figures or {}), videos or {}, text)
        for webhook, events in self.webhooks:
            if kind in events:
                webhook.put(event)

    def _pass_on_notes(self) -> None:
        while True:
            try:
                self.note(self.said.get_nowait())
            except Empty:
                return


def _trackers(job: Job, folder: Path, first_step: int, say: Callable[[str], None]) -> list[Service]:
    trackers: list[Service] = []
    if job.tracking.tensorboard:
        from ray_s2v.reporting.services import tensorboard_events

        trackers.append(tensorboard_events.Tracker(folder / "tensorboard", first_step))
    if job.tracking.wandb:
        from ray_s2v.reporting.services import weights_and_biases

        trackers.append(weights_and_biases.Tracker(job.tracking.wandb, folder, job.model_dump(mode="json"), say))
    return trackers


def _webhooks(job: Job) -> list[tuple[Service, list[Kind]]]:
    if not job.webhooks:
        return []
    from ray_s2v.reporting.services.webhook import Webhook

    return [
        (Webhook(f"webhook {webhook.url_variable}", os.environ[webhook.url_variable], webhook.kind), webhook.events)
        for webhook in job.webhooks
    ]
