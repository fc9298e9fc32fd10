"""Curves and videos in TensorBoard's files, read back by TensorBoard, over resumed runs."""

import io
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ray_s2v.reporting.messages import Figures, Video
from ray_s2v.reporting.services.tensorboard_events import Tracker
from tests.trackers import moving_square, points, session


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_square(tmp_path_factory.mktemp("videos") / "anna.mp4")


def tensorboard(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def curve(read: EventAccumulator, chart: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in read.Scalars(chart)]


def test_tensorboard_reads_the_curves_and_how_busy_the_machine_is(tmp_path: Path) -> None:
    assert session(Tracker(tmp_path, 0), points(range(1, 5), lambda step: 1 / 2**step)) == []
    read = tensorboard(tmp_path)
    assert curve(read, "train/loss") == [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625)]
    memory = [value for _, value in curve(read, "system/host_memory_gib")]
    assert len(memory) == 4
    assert 0 < min(memory) <= max(memory) < psutil.virtual_memory().total / 2**30
    assert all(0 <= value <= 1 for _, value in curve(read, "system/cpu_share"))


def test_tensorboard_shows_a_video_as_a_moving_picture(tmp_path: Path, video: Path) -> None:
    assert session(Tracker(tmp_path, 0), [*points(range(1, 9)), Video(4, "validation/anna", video)]) == []
    (image,) = tensorboard(tmp_path).Images("validation/anna")
    assert (image.step, image.width, image.height) == (4, 96, 64)
    with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
        assert (gif.format, gif.n_frames, gif.size) == ("GIF", 16, (96, 64))
        assert gif.info["duration"] in (120, 130)  # ms, of which GIF knows the hundredths of a second
        for place in (0, 15):
            gif.seek(place)
            bright = np.nonzero(np.asarray(gif.convert("L"))[32] > 128)[0]
            assert abs(bright.mean() - (4 * place + 7.5)) < 1


def test_tensorboard_forgets_what_a_resumed_run_tells_again(tmp_path: Path) -> None:
    held_out = [Figures(4, {"held_out/loss": 0.5})]
    session(Tracker(tmp_path, 0), [*points(range(1, 5)), *held_out, *points(range(5, 8))])
    time.sleep(1.1)  # the files' names hold the second
    session(Tracker(tmp_path, 4), points(range(5, 9), lambda step: -step))
    read = tensorboard(tmp_path)
    assert curve(read, "train/loss") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, -5), (6, -6), (7, -7), (8, -8)]
    assert curve(read, "held_out/loss") == [(4, 0.5)]


def test_tensorboard_forgets_what_workers_that_went_back_tell_again(tmp_path: Path) -> None:
    again = points(range(5, 9), lambda step: -step)
    held_out = [Figures(4, {"held_out/loss": 0.5})]
    session(Tracker(tmp_path, 0), [*points(range(1, 5)), *held_out, *points(range(5, 7)), *again])
    read = tensorboard(tmp_path)
    assert curve(read, "train/loss") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, -5), (6, -6), (7, -7), (8, -8)]
    assert curve(read, "held_out/loss") == [(4, 0.5)]


def test_tensorboard_tells_what_it_cannot_write(tmp_path: Path) -> None:
    broken = tmp_path / "a.mp4"
    broken.write_bytes(b"no video")
    (line,) = session(Tracker(tmp_path / "events", 0), [*points(range(1, 3)), Video(1, "validation/a", broken)])
    assert line.startswith("TensorBoard: 1 of 3 messages were not delivered: a video that cannot be read: ")
    (tmp_path / "file").write_text("")
    (line,) = session(Tracker(tmp_path / "file", 0), points(range(1, 3)))
    assert line.startswith(f"TensorBoard: 2 of 2 messages were not delivered: {tmp_path / 'file'}: ")
