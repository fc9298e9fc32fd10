"""Long work that Ctrl-C ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


def until_done(work: Callable[[], Result], meanwhile: Callable[[], object]) -> Result:
    """What `work` returns, run in a thread of its own; the main thread calls `meanwhile` again and again, and raises
    KeyboardInterrupt after Ctrl-C.
    """
    outcome: Future[Result] = Future()
    with _ctrl_c() as asked_to_stop:
        threading.Thread(target=lambda: _settle(outcome, work), daemon=True).start()
        while not outcome.done():
            meanwhile()
            if asked_to_stop.is_set():
                raise KeyboardInterrupt
    return outcome.result()


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets. Raised as an exception, it can be lost in one of Ray's callbacks."""
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _settle(outcome: Future[Result], work: Callable[[], Result]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001 handed to the main thread, which raises it
        outcome.set_exception(error)
