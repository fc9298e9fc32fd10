"""Handing messages to a service that may be slow, dead or hang, beside a run that none of this may hold up."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

from ray_s2v.reporting.messages import Figures, Message

MOST_WAITING = 10_000  # messages: a few MB


class NotDelivered(Exception):
    """A message did not reach its service; the text is the reason, without a secret."""


class Service(ABC):
    """A place that messages go to. All but `abandon` and `remark` is called in one thread, that of its delivery."""

    name: str

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def deliver(self, message: Message) -> None:
        """Returns when the message is handed over. Raises NotDelivered."""

    def close(self, failed: bool) -> None:  # noqa: B027 most services hold nothing
        """Hands over what is held back, when nothing more will come. Raises NotDelivered."""

    def abandon(self) -> None:  # noqa: B027
        """Ends what `deliver` and `close` wait for, where that can be ended; from another thread, when time is up."""

    def remark(self) -> str:
        """What a person should know when all is over, such as how to hand over the rest, or nothing."""
        return ""


class Delivery:
    """One service's thread and what waits for it. `say` gets the first failure in a line, in that thread."""

    def __init__(self, service: Service, say: Callable[[str], None]) -> None:
        self.service, self.say = service, say
        self.waiting: deque[Message] = deque()
        self.changed = threading.Condition()
        self.is_ending = self.failed = self.is_done = self.is_given_up = False
        self.num_given = self.num_delivered = self.num_dropped = 0
        self.reason = ""  # of the last failure
        # A daemon: the interpreter does not wait for a service that hangs.
        self.thread = threading.Thread(target=self._deliver_all, name=service.name, daemon=True)
        self.thread.start()

    def put(self, message: Message) -> None:
        """Returns at once. Where too many messages wait, the oldest figures are dropped, and counted."""
        with self.changed:
            self.num_given += 1
            self.waiting.append(message)
            if len(self.waiting) > MOST_WAITING:
                del self.waiting[next((place for place, waits in enumerate(self.waiting) if isinstance(waits, Figures)), 0)]
                self.num_dropped += 1
            self.changed.notify()

    def end(self, failed: bool) -> None:
        """Nothing more will come. failed: what came of the run."""
        with self.changed:
            self.is_ending, self.failed = True, failed
            self.changed.notify()

    def wait(self, until: float) -> None:
        """Returns when all is handed over, or else at the moment `until` of the monotonic clock, when the rest is given up."""
        self.thread.join(max(0.0, until - time.monotonic()))
        if self.thread.is_alive():
            self.is_given_up = True
            self.reason = self.reason or "no answer yet when the time for it was up"
            self.service.abandon()
        elif not self.is_done:
            self.reason = "an error in this program, whose traceback is above"

    def lines(self) -> list[str]:
        """What a person should know in the end: what was not delivered, and why; nothing where all went well."""
        lost = self.num_given - self.num_delivered
        parts = [f"{lost} of {self.num_given} messages were not delivered"] if lost else []
        if self.num_dropped:
            parts.append(f"{self.num_dropped} of them because too many waited")
        parts += [text for text in (self.reason, self.service.remark()) if text]
        return [f"{self.service.name}: " + ": ".join(parts)] if parts else []

    def _deliver_all(self) -> None:
        while (message := self._next()) is not None:
            try:
                self.service.deliver(message)
            except NotDelivered as error:
                self._note(error)
            else:
                self.num_delivered += 1
        try:
            self.service.close(self.failed)
        except NotDelivered as error:
            self._note(error)
        self.is_done = True

    def _next(self) -> Message | None:
        """The oldest message, when there is one; None after the last."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.is_ending)
            return self.waiting.popleft() if self.waiting else None

    def _note(self, error: NotDelivered) -> None:
        if self.is_given_up:
            return
        if not self.reason and not self.is_ending:
            self.say(f"{self.service.name}: {error}; the run goes on without")
        self.reason = str(error)


def end_all(deliveries: Sequence[Delivery], failed: bool, within_s: float) -> list[str]:
    """Gives all services together so long to take the rest; returns what a person should know then."""
    until = time.monotonic() + within_s
    for delivery in deliveries:
        delivery.end(failed)
    for delivery in deliveries:
        delivery.wait(until)
    return [line for delivery in deliveries for line in delivery.lines()]
