"""What the tests of trackers tell them: points of a curve, a session from beginning to end, a video."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from ray_s2v.media.write import write_video
from ray_s2v.reporting.delivery import Delivery, Service, end_all
from ray_s2v.reporting.messages import Figures, Message


def points(steps: range, loss: Callable[[int], float] = float) -> list[Message]:
    return [Figures(step, {"train/loss": loss(step)}) for step in steps]


def session(service: Service, messages: list[Message]) -> list[str]:
    """What is said at the end of a run that told the service these."""
    delivery = Delivery(service, print)
    for message in messages:
        delivery.put(message)
    return end_all([delivery], False, within_s=60)


def moving_square(path: Path) -> Path:
    """Two seconds of a square that moves two pixels to the right in each of 32 pictures, with sound."""
    frames = np.zeros((32, 64, 96, 3), np.uint8)
    for place, frame in enumerate(frames):
        frame[24:40, 2 * place : 2 * place + 16] = 255
    write_video(path, frames, Fraction(16), np.sin(np.arange(32_000) / 10).astype(np.float32) / 2)
    return path
