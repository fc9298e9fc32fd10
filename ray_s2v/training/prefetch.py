"""Batches made ready while the network computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """The items, made ahead, from now on, in a thread of its own: `depth` of them wait, and the next is made meanwhile. What making them
    raises is raised in their place.
    """
    ready: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(depth)

    def make() -> None:
        try:
            for item in items:
                ready.put(("item", item))
            ready.put(("end", None))
        except BaseException as error:  # noqa: BLE001 handed to the thread that takes the items, which raises it
            ready.put(("error", error))

    threading.Thread(target=make, daemon=True).start()
    return _taken(ready)


def _taken(ready: queue.Queue[tuple[str, Item | BaseException | None]]) -> Iterator[Item]:
    while True:
        what, value = ready.get()
        if what == "end":
            return
        if what == "error":
            assert isinstance(value, BaseException)
            raise value
        yield value  # type: ignore[misc]
