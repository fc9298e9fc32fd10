"""Messages reach a service in order; one that is slow, fails or hangs holds nobody up, and what it did not take is told."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_s2v.reporting import delivery
from ray_s2v.reporting.delivery import Delivery, NotDelivered, Service, end_all
from ray_s2v.reporting.messages import Event, Figures, Message, Video


class Mailbox(Service):
    """Does what it is told with each message, and keeps those that it takes."""

    def __init__(self, do: Callable[[Message], object] = lambda message: None) -> None:
        super().__init__("mailbox")
        self.do, self.kept, self.closed_with = do, [], None

    def deliver(self, message: Message) -> None:
        self.do(message)
        self.kept.append(message)

    def close(self, failed: bool) -> None:
        self.closed_with = failed


def points(count: int) -> list[Figures]:
    return [Figures(step, {"train/loss": 0.5}) for step in range(count)]


def refuse(message: Message) -> None:
    raise NotDelivered("out of order")


@pytest.mark.parametrize("failed", [True, False])
def test_all_arrives_in_order(failed: bool) -> None:
    mailbox, said = Mailbox(), []
    delivery = Delivery(mailbox, said.append)
    for message in points(100):
        delivery.put(message)
    assert end_all([delivery], failed, within_s=5) == []
    assert (mailbox.kept, mailbox.closed_with, said) == (points(100), failed, [])
    assert not delivery.thread.is_alive()


def test_a_service_that_hangs_holds_nobody_up() -> None:
    forever = threading.Event()
    deliveries = [Delivery(Mailbox(lambda message: forever.wait()), print) for _ in range(3)]
    began = time.monotonic()
    for message in points(1000):
        for each in deliveries:
            each.put(message)
    assert time.monotonic() - began < 0.2
    began = time.monotonic()
    lines = end_all(deliveries, False, within_s=0.3)
    assert 0.29 < time.monotonic() - began < 0.6  # of all together
    assert lines == ["mailbox: 1000 of 1000 messages were not delivered: no answer yet when the time for it was up"] * 3
    forever.set()


def test_a_service_that_hangs_does_not_keep_the_program_from_ending() -> None:
    program = """
import time
from ray_s2v.reporting.delivery import Delivery, Service, end_all
from ray_s2v.reporting.messages import Figures
class Hanging(Service):
    def deliver(self, message):
        time.sleep(100)
hanging = Delivery(Hanging("it"), print)
hanging.put(Figures(0, {}))
end_all([hanging], False, within_s=0.1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=10)


def test_what_fails_is_counted_and_told_once_at_once() -> None:
    said: list[str] = []
    mailbox = Mailbox(lambda message: refuse(message) if message.step in (2, 3) else None)
    delivery = Delivery(mailbox, said.append)
    for message in points(5):
        delivery.put(message)
    while len(mailbox.kept) < 3:
        time.sleep(0.01)
    assert end_all([delivery], False, within_s=5) == ["mailbox: 2 of 5 messages were not delivered: out of order"]
    assert said == ["mailbox: out of order; the run goes on without"]
    assert [message.step for message in mailbox.kept] == [0, 1, 4]


def test_memory_is_bounded_and_figures_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MOST_WAITING", 4)
    begun, go = threading.Event(), threading.Event()

    def wait(message: Message) -> None:
        begun.set()
        assert go.wait(5)

    mailbox = Mailbox(wait)
    sent = Delivery(mailbox, print)
    sent.put(Figures(0, {}))
    assert begun.wait(5)  # that one is out of the queue
    event, video = Event("started", "run", 0, 9), Video(0, "validation/a", Path("a.mp4"))
    for message in (event, video, *points(10)):
        sent.put(message)
    assert len(sent.waiting) == 4
    go.set()
    assert end_all([sent], False, within_s=5) == ["mailbox: 8 of 13 messages were not delivered: 8 of them because too many waited"]
    assert mailbox.kept[1:] == [event, video, *points(10)[-2:]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_program_is_told() -> None:
    delivery = Delivery(Mailbox(lambda message: 1 / 0), print)
    delivery.put(points(1)[0])
    lines = end_all([delivery], False, within_s=5)
    assert lines == ["mailbox: 1 of 1 messages were not delivered: an error in this program, whose traceback is above"]
