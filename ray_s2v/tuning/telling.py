"""Which of a run's messages Ray Tune is told, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

# step, loss, the step of the checkpoint that goes with it, whether the run is over
Tell = Callable[[int, float, int | None, bool], None]


class Telling:
    """Passes on each held-out loss once: at once, or with the checkpoint of the same step where Tune shall have it.

    A checkpoint is written beside training, so steps may be told before it is; one that cannot be written never is. The last measurement
    waits for `finish`: Tune may end a trial at any measurement, and a run's last is before its adapter is written.
    """

    def __init__(self, tell: Tell, told: Iterable[tuple[int, float]], num_steps: int, hand_every: int | None = None) -> None:
        """told: what Tune knows from before, in order. hand_every: steps after which a measurement takes its checkpoint along."""
        self.tell, self.num_steps, self.hand_every = tell, num_steps, hand_every
        self.known = dict(told)
        self.waiting: int | None = None  # the step of a measurement that is not told yet
        self.has_trained = False  # what is measured before gets no checkpoint

    def take(self, record: dict[str, Any]) -> None:
        """A message of `run_training`."""
        if "held_out" in record:
            self._flush()
            step, loss = record["held_out"]["step"], record["held_out"]["loss"]
            if step in self.known:
                return
            self.known[step] = loss
            if step == self.num_steps:
                return
            self.waiting = step
            if not self.hand_every or not self.has_trained or step % self.hand_every:
                self._flush()
        elif "checkpoint" in record:
            self._flush(with_checkpoint=record["checkpoint"] == self.waiting)
        elif "step" in record:
            self.has_trained = True

    def _flush(self, with_checkpoint: bool = False) -> None:
        if self.waiting is not None:
            step, self.waiting = self.waiting, None
            self.tell(step, self.known[step], step if with_checkpoint else None, False)

    def finish(self) -> None:
        """To be called when the run is over, or was so before: tells the last measurement, also if it is known."""
        self._flush()
        step = max(self.known)
        self.tell(step, self.known[step], None, True)
