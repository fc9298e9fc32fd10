"""Things made ahead in a thread: the same, in the same order, no more than asked for, and errors in their places."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from ray_s2v.training.prefetch import prefetched

LONG_S = 10.0  # that nothing here takes
SETTLED_S = 0.05  # after which a thread that could go on would have


class Watched:
    """Numbers from zero on, up to a limit, and how many of them have been made."""

    def __init__(self, end: int | None = None, error: BaseException | None = None) -> None:
        self.end, self.error = end, error
        self.made = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        while self.end is None or self.made < self.end:
            self.threads.add(threading.get_ident())
            self.made += 1
            yield self.made - 1
        if self.error:
            raise self.error

    def settles_at(self, count: int) -> bool:
        """Whether so many are made, and for some time no more."""
        deadline = time.monotonic() + LONG_S
        while self.made < count and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(SETTLED_S)
        return self.made == count


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_all_items_come_in_their_order(count: int, depth: int) -> None:
    assert list(prefetched(Watched(count), depth)) == list(range(count))


def test_items_are_the_same_objects() -> None:
    things = [object() for _ in range(5)]
    assert all(a is b for a, b in zip(prefetched(things, 2), things, strict=True))


def test_things_that_look_like_signs_are_items() -> None:
    things = [None, ("end", None), ("error", ValueError()), StopIteration(), KeyError("an item")]
    assert list(prefetched(things, 2)) == things


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_is_made_ahead_than_waits_and_one(depth: int) -> None:
    source = Watched()
    items = prefetched(source, depth)
    assert source.settles_at(depth + 1), "begun before the first is asked for"
    for taken in range(1, 5):
        assert next(items) == taken - 1
        assert source.settles_at(taken + depth + 1)


def test_items_are_made_in_one_other_thread() -> None:
    source = Watched(3)
    assert list(prefetched(source, 2)) == [0, 1, 2]
    assert threading.get_ident() not in source.threads
    assert len(source.threads) == 1


@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("before", [0, 1, 4])
@pytest.mark.parametrize("kind", [ValueError, AssertionError, KeyboardInterrupt, SystemExit])
def test_an_error_is_raised_in_its_place(kind: type[BaseException], before: int, depth: int) -> None:
    """After all items that were made before it, and the error itself, with where it came from."""
    error = kind("it broke")
    items = prefetched(Watched(before, error), depth)
    assert [next(items) for _ in range(before)] == list(range(before))
    with pytest.raises(kind, match="it broke") as caught:
        next(items)
    assert caught.value is error
    assert caught.traceback[-1].path.name == "test_prefetch.py"
    with pytest.raises(StopIteration):
        next(items)


def test_what_cannot_be_iterated_is_told_to_who_asks() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        next(prefetched(5, 2))  # type: ignore[arg-type]


def test_endless_items_are_taken_as_far_as_they_are_wanted() -> None:
    assert list(itertools.islice(prefetched(itertools.count(), 3), 1000)) == list(range(1000))


def test_items_left_behind_hold_up_no_end_of_the_process() -> None:
    """A run that stops in the middle of an epoch; threads that Python waits for would keep it alive."""
    before = set(threading.enumerate())
    items = prefetched(Watched(), 2)
    next(items)
    (maker,) = set(threading.enumerate()) - before
    assert maker.is_alive()
    assert maker.daemon
