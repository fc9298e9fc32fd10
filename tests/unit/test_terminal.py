"""What a person sees of a run, on a terminal and in a file."""

import io
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_s2v.reporting.terminal import PLAIN_EVERY_S, Count, Progress, duration

CLEAR = "\r\033[K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def record(step: int, **changes: Any) -> dict[str, Any]:
    """A step of 2 s for 4 clips."""
    return {
        "step": step,
        "loss": 0.51234,
        "learning_rate": 1e-4,
        "clip_ids": ["a", "b", "c", "d"],
        "unreadable": {},
        "step_s": 2.0,
        "wait_s": 0.5,
        "memory_gib": 1.27,
    } | changes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3661, "1:01:01"),
        (360_000, "100:00:00"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@settings(deadline=None, database=None, derandomize=True)
@given(st.floats(min_value=0, max_value=1e7))
def test_durations_add_up(seconds: float) -> None:
    *larger, rest = map(int, duration(seconds).split(":"))
    assert all(part < 60 for part in [*larger[1:], rest])
    assert abs(sum(part * unit for part, unit in zip([rest, *reversed(larger)], (1, 60, 3600), strict=False)) - seconds) <= 0.5


def test_line_tells_everything() -> None:
    stream = io.StringIO()
    Progress(4, stream).show(record(0))
    assert stream.getvalue() == "step 1/4  loss 0.5123  lr 1.00e-04  2.00 clips/s  data wait 25%  1.3 GiB  left 0:06\n"


def test_held_out_losses_are_told_and_checkpoints_are_not() -> None:
    stream = io.StringIO()
    progress = Progress(4, stream)
    figures = {"loss": 0.51234, "worse_without_sound": 0.02, "worse_with_other_sound": -0.001, "unreadable": {}}
    progress.show({"held_out": {"step": 50, **figures}})
    progress.show({"checkpoint": 50})
    silent = {"worse_without_sound": None, "worse_with_other_sound": None, "unreadable": {"eval/a.mp4": "damaged"}}
    progress.show({"held_out": {"step": 60, **figures, **silent}})
    assert stream.getvalue().splitlines() == [
        "held out after 50 steps: loss 0.5123  without sound +0.0200  with another's -0.0010",
        "held out after 60 steps: loss 0.5123  eval/a.mp4 could not be read: damaged",
    ]


def test_plain_lines_are_the_first_the_last_and_one_each_few_seconds() -> None:
    stream = io.StringIO()
    progress = Progress(6, stream)
    for step in range(6):
        if step == 3:
            progress.shown_at -= PLAIN_EVERY_S  # as if so much time had gone by
        progress.show(record(step))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/6", "4/6", "6/6"]
    assert "\r" not in stream.getvalue()
    assert "\033" not in stream.getvalue()


def test_terminal_line_renews_itself() -> None:
    stream = Terminal()
    progress = Progress(3, stream)
    for step in range(3):
        progress.show(record(step))
    before, *lines = stream.getvalue().split(CLEAR)
    assert before == ""
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert [line.endswith("\n") for line in lines] == [False, False, True]
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_unreadable_clips_are_named_with_their_step_and_reason(stream: io.StringIO) -> None:
    progress = Progress(9, stream)
    progress.show(record(0))
    progress.show(record(1, unreadable={"clips/a.mp4": "the file is empty", "clips/b.mp4": "damaged"}))
    lines = stream.getvalue().replace(CLEAR, "\n").splitlines()
    for clip, reason in (("clips/a.mp4", "the file is empty"), ("clips/b.mp4", "damaged")):
        (line,) = [line for line in lines if clip in line]
        assert line.startswith("step 2: ")
        assert line.endswith(reason)


def test_time_left_does_not_follow_one_slow_step() -> None:
    progress = Progress(101, io.StringIO())
    for step in range(9):
        progress.show(record(step))
    slow = record(9, step_s=500.0, wait_s=0.0)
    progress.show(slow)
    assert progress.line(slow).endswith("left 3:02")  # 91 steps of 2 s


def test_time_left_follows_the_last_twenty_steps() -> None:
    progress = Progress(200, io.StringIO())
    for step in range(100):
        progress.show(record(step, step_s=50.0 if step < 80 else 1.0))
    assert progress.line(record(99)).endswith("left 1:40")


def test_resumed_run_counts_from_where_it_stands() -> None:
    stream = io.StringIO()
    Progress(50, stream).show(record(39))
    assert stream.getvalue().startswith("step 40/50 ")
    assert stream.getvalue().endswith("left 0:20\n")


def test_count_tells_how_fast_and_how_long_from_the_second_on(clock: Clock) -> None:
    """While the first is made its encoder is loaded."""
    stream = Terminal()
    count = Count(stream)
    for done, seconds in ((1, 40.0), (2, 0.5), (3, 0.5), (51, 24.0)):
        clock.now += seconds
        count.show("speech", done, 200)
    before, *lines = stream.getvalue().split(CLEAR)
    assert before == ""
    assert lines == [
        "speech 1/200",
        "speech 2/200  2.00/s  left 1:39",
        "speech 3/200  2.00/s  left 1:38",
        "speech 51/200  2.00/s  left 1:14",
    ]


def test_count_renews_its_line_on_a_terminal_and_ends_it_at_the_last(clock: Clock) -> None:
    stream = Terminal()
    count = Count(stream)
    for done in range(1, 4):
        clock.now += 1
        count.show("text", done, 3)
    count.show("video", 1, 2)
    finished, current = stream.getvalue().split("\n")
    assert finished.split(CLEAR)[1:] == ["text 1/3", "text 2/3  1.00/s  left 0:01", "text 3/3  1.00/s  left 0:00"]
    assert current == f"{CLEAR}video 1/2"


def test_count_in_a_file_is_the_first_the_last_and_one_each_few_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    count = Count(stream)
    for done in range(1, 101):
        clock.now += 0.2  # so that every 25th is due
        count.show("text", done, 100)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "26/100", "51/100", "76/100", "100/100"]
    assert all(line.split()[2] == "5.00/s" for line in lines[1:])
    assert "\r" not in stream.getvalue()
    assert "\033" not in stream.getvalue()


def test_count_begins_anew_with_each_kind(clock: Clock) -> None:
    """Its first is shown at once, and the time of the one before is not its own."""
    stream = io.StringIO()
    count = Count(stream)
    for kind, done, seconds in (("text", 1, 9.0), ("text", 2, 0.1), ("speech", 1, 100.0), ("speech", 2, 5.0), ("speech", 4, 5.0)):
        clock.now += seconds
        count.show(kind, done, 2 if kind == "text" else 4)
    assert stream.getvalue().splitlines() == [
        "text 1/2",
        "text 2/2  10.00/s  left 0:00",
        "speech 1/4",
        "speech 2/4  0.20/s  left 0:10",
        "speech 4/4  0.30/s  left 0:00",
    ]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_count_of_one_thing_is_a_line(stream: io.StringIO) -> None:
    """No time has gone by from which a rate could be told."""
    Count(stream).show("text", 1, 1)
    assert stream.getvalue().removeprefix(CLEAR) == "text 1/1\n"


def test_count_of_many_at_the_same_moment(clock: Clock) -> None:
    stream = io.StringIO()
    count = Count(stream)
    count.show("text", 1, 2)
    count.show("text", 2, 2)
    assert stream.getvalue().splitlines()[-1].startswith("text 2/2  ")
