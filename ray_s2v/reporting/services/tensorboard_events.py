"""Curves and videos as TensorBoard's event files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import av
from tensorboard.compat.proto.event_pb2 import Event as Entry
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ray_s2v.reporting.delivery import NotDelivered, Service
from ray_s2v.reporting.messages import Event, Message, Video
from ray_s2v.reporting.services.moving_picture import animated_gif
from ray_s2v.reporting.services.system_figures import system_figures

FLUSH_S = 10  # between writes to the file, so that a curve that is watched moves


class Tracker(Service):
    """One event file for each time that the run starts; TensorBoard shows a folder's as one run.

    TensorBoard shows no MP4: a video becomes a GIF among the images, as torch's add_video does, without sound.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        super().__init__("TensorBoard")
        self.folder, self.first_step = folder, first_step
        self.writer: EventFileWriter | None = None
        self.last_steps: dict[str, int] = {}  # of each chart

    def deliver(self, message: Message) -> None:
        assert not isinstance(message, Event)
        try:
            if isinstance(message, Video):
                self._add(message.step, {message.chart: _image(message.path)})
            else:
                if any(message.step <= self.last_steps.get(chart, -1) for chart in message.values):
                    self._told_anew(message.step)  # workers went back to a checkpoint
                values = message.values | system_figures()
                self.last_steps |= dict.fromkeys(values, message.step)
                self._add(message.step, {chart: {"simple_value": value} for chart, value in values.items()})
        except av.error.FFmpegError as error:
            raise NotDelivered(f"a video that cannot be read: {error.strerror}") from error
        except OSError as error:
            raise NotDelivered(f"{self.folder}: {error.strerror}") from error

    def close(self, failed: bool) -> None:
        if self.writer:
            self.writer.close()

    def _add(self, step: int, values: dict[str, dict[str, Any]]) -> None:
        summary = Summary(value=[Summary.Value(tag=chart, **value) for chart, value in values.items()])
        self._opened().add_event(Entry(wall_time=time.time(), step=step, summary=summary))

    def _opened(self) -> EventFileWriter:
        if self.writer is None:
            self.writer = EventFileWriter(str(self.folder), flush_secs=FLUSH_S)
            if self.first_step:
                self._told_anew(self.first_step + 1)
        return self.writer

    def _told_anew(self, step: int) -> None:
        """TensorBoard takes out what it was told of this step and later ones."""
        writer = self._opened()
        writer.add_event(Entry(wall_time=time.time(), step=step, file_version="brain.Event:2"))
        writer.add_event(Entry(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))
        self.last_steps = {chart: last for chart, last in self.last_steps.items() if last < step}


def _image(path: Path) -> dict[str, Any]:
    gif, width, height = animated_gif(path)
    return {"image": Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)}
