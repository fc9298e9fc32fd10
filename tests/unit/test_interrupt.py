"""Long work in a thread: its result or its error, and Ctrl-C in the middle of it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ray_s2v.schema import RunStopped
from ray_s2v.training.interrupt import until_done

TICK_S = 0.01
PROMPT_S = 1.0  # a busy machine's; a tick is a hundredth of it
LONG_S = 30.0


@pytest.fixture
def handler() -> Iterator[Callable[..., None]]:
    """What Ctrl-C does around the work: something of the tests' own, which is never called."""

    def own(*_: object) -> None:
        raise AssertionError("Ctrl-C while no work is done")

    before = signal.signal(signal.SIGINT, own)
    yield own
    signal.signal(signal.SIGINT, before)


def tick() -> None:
    time.sleep(TICK_S)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_what_the_work_returns_comes_back(handler: Callable[..., None]) -> None:
    result = object()
    assert until_done(lambda: result, tick) is result
    assert until_done(lambda: None, tick) is None
    assert signal.getsignal(signal.SIGINT) is handler


def test_work_and_what_is_done_meanwhile_have_their_threads(handler: Callable[..., None]) -> None:
    enough, seen = threading.Event(), []

    def meanwhile() -> None:
        seen.append(threading.current_thread())
        if len(seen) == 5:
            enough.set()
        time.sleep(TICK_S)

    def work() -> tuple[bool, threading.Thread]:
        return enough.wait(LONG_S), threading.current_thread()

    was_called, thread = until_done(work, meanwhile)
    assert was_called
    assert set(seen) == {threading.main_thread()}
    assert thread is not threading.main_thread()
    assert thread.daemon, "Python would wait for it at its end"


@pytest.mark.parametrize("error", [ValueError("no"), RunStopped("no"), KeyboardInterrupt("no"), SystemExit("no")])
def test_what_the_work_raises_is_raised(handler: Callable[..., None], error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error), match="no") as caught:
        until_done(work, tick)
    assert caught.value is error
    assert signal.getsignal(signal.SIGINT) is handler


def test_what_is_raised_meanwhile_ends_the_waiting(handler: Callable[..., None]) -> None:
    def meanwhile() -> None:
        raise ValueError("the terminal is gone")

    goes_on = threading.Event()
    with pytest.raises(ValueError, match="the terminal is gone"):
        until_done(lambda: goes_on.wait(LONG_S), meanwhile)
    goes_on.set()
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_ends_the_waiting_at_once(handler: Callable[..., None]) -> None:
    """However long the work would take, which here does not care; and whoever was called before is called again."""
    goes_on, pressed_at = threading.Event(), []

    def work() -> bool:
        pressed_at.append(time.monotonic())
        press()
        return goes_on.wait(LONG_S)

    with pytest.raises(KeyboardInterrupt):
        until_done(work, tick)
    assert time.monotonic() - pressed_at[0] < PROMPT_S
    goes_on.set()
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_is_not_lost_in_a_callback(handler: Callable[..., None]) -> None:
    """As Ray's do, this one goes on whatever is raised in it. Pressed more than once it counts once."""
    goes_on, swallowed = threading.Event(), []

    def meanwhile() -> None:
        try:
            for _ in range(3):
                press()
                time.sleep(TICK_S)
        except BaseException as error:  # noqa: BLE001 it is what this is about
            swallowed.append(error)

    with pytest.raises(KeyboardInterrupt):
        until_done(lambda: goes_on.wait(LONG_S), meanwhile)
    assert swallowed == []
    goes_on.set()


def test_one_work_after_the_other(handler: Callable[..., None]) -> None:
    """Ctrl-C in the first is over when the second begins."""

    def pressed() -> None:
        press()
        time.sleep(LONG_S)

    with pytest.raises(KeyboardInterrupt):
        until_done(pressed, tick)
    assert until_done(lambda: 7, tick) == 7
