"""A worker that hangs: noticed, told with its place, and ended. Ray Train then starts the workers again from the last checkpoint."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")

PATIENCE = 10  # times the limit for data, of which the makers may just be starting, and for loading, maybe from the hub
LOOKS = 10  # in the time of a limit
TELL_S = 2.0  # for what was said to leave the process
EXIT_CODE = 75


class _Beat(NamedTuple):
    time: float
    place: str
    patience: int


class Watch:
    """Ends this process where nothing has beaten for `limit_s`, also while it waits in a collective for another; without a limit, never.

    who: `worker 1`. say: takes a line for the person; every thread's stack goes to stderr, which is Ray's log of the worker.
    """

    def __init__(self, limit_s: float | None, who: str, say: Callable[[str], object]) -> None:
        self._limit_s, self._who, self._say = limit_s, who, say
        self._over = threading.Event()
        self.at("loading the network", PATIENCE)

    def __enter__(self) -> Watch:
        if self._limit_s:
            threading.Thread(target=self._look, args=(self._limit_s,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def at(self, place: str, patience: int = 1) -> None:
        """Beats, in a new place, which may last so many times the limit."""
        self._last = _Beat(time.monotonic(), place, patience)

    def beat(self) -> None:
        self.at(self._last.place)

    def patient(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items; waiting for one may take longer than anything else."""
        while True:
            place = self._last.place
            self.at(f"{place}, waiting for data", PATIENCE)
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.at(place)
            yield item

    def _look(self, limit_s: float) -> None:
        while not self._over.wait(limit_s / LOOKS):
            last = self._last
            still_s = time.monotonic() - last.time
            if still_s > last.patience * limit_s:
                self._say(
                    f"{self._who} has not moved for {still_s:.0f} s, {last.place}: it hangs, or waits for one that does. It is ended, and "
                    "the workers start again from the last checkpoint; its stacks are in Ray's log of it"
                )
                faulthandler.dump_traceback(all_threads=True)
                time.sleep(TELL_S)
                os._exit(EXIT_CODE)
