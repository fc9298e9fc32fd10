"""What a training step takes on one worker: milliseconds of its parts, memory, and the card's own rate beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from ray_s2v.model.fused.memory import GIB
from ray_s2v.schema import Batch, RunStopped
from ray_s2v.training.engine import Engine

WARM_UP = 2  # steps that are not counted: compilation, Adam's state, the allocator's blocks
SIDE = 8192  # of the square matrices whose product is the card's rate
SINGLE = 10
SUSTAINED_S = 3.0


class Clock:
    """Moments of a step: on a GPU when it gets there, else when the process does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        self._seconds: list[float] = []

    def mark(self) -> None:
        if self._device.type == "cpu":
            self._seconds.append(time.monotonic())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)

    def gaps_ms(self) -> list[float]:
        """Milliseconds between one mark and the next."""
        if self._device.type == "cpu":
            return [1e3 * (end - start) for start, end in zip(self._seconds, self._seconds[1:], strict=False)]
        self._events[-1].synchronize()
        return [start.elapsed_time(end) for start, end in zip(self._events, self._events[1:], strict=False)]


@dataclass(frozen=True)
class Step:
    """One optimizer step of one micro-batch."""

    forward_ms: float
    backward_ms: float  # with the loss
    optimizer_ms: float  # with the look at the gradients
    loss: float  # mean over the clips

    @property
    def step_ms(self) -> float:
        return self.forward_ms + self.backward_ms + self.optimizer_ms


@dataclass(frozen=True)
class Steps:
    """Of one kind of batch, on one worker."""

    first_step_s: float  # with all that is compiled or made at first use
    allocated_gib: float | None  # at the peak; None on a CPU
    reserved_gib: float | None  # from the driver, at the peak of all steps so far
    steps: list[Step]


@dataclass(frozen=True)
class Rate:
    """TFLOP/s of a bf16 product of two 8192 x 8192 matrices."""

    burst: float  # median of single products
    sustained: float  # one after the other for 3 seconds: what the card's power allows


def timed_step(engine: Engine, batch: Batch, learning_rate: float) -> Step:
    """Trains one step. Raises RunStopped where training would stop: a loss or gradient that is not finite."""
    clock = Clock(engine.device)
    hook = engine.deepspeed.module.register_forward_hook(lambda *_: clock.mark())
    clock.mark()
    losses = engine.forward_backward(batch, 1 / len(batch.slots))
    clock.mark()
    hook.remove()
    if not engine.gradients_finite():
        raise RunStopped(f"a gradient of the synthetic batch is not finite, at losses {losses}: this configuration cannot be measured")
    engine.step(learning_rate)
    clock.mark()
    forward_ms, backward_ms, optimizer_ms = clock.gaps_ms()
    return Step(forward_ms, backward_ms, optimizer_ms, sum(losses) / len(losses))


def timed_steps(engine: Engine, batch: Batch, learning_rate: float, count: int, say: Callable[[str], None]) -> Steps:
    """Warms up, then measures `count` steps; says how long each took."""
    device = engine.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.monotonic()
    timed_step(engine, batch, learning_rate)
    first_step_s = time.monotonic() - started
    say(f"first step {first_step_s:.1f} s (with what is compiled at first use)")
    for _ in range(WARM_UP - 1):
        timed_step(engine, batch, learning_rate)
    steps = []
    for number in range(count):
        steps.append(timed_step(engine, batch, learning_rate))
        say(f"step {number + 1} of {count}: {steps[-1].step_ms:.0f} ms")
    if device.type == "cpu":
        return Steps(first_step_s, None, None, steps)
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return Steps(first_step_s, allocated / GIB, reserved / GIB, steps)


def product_rate(device: torch.device) -> Rate | None:
    """The card's rate at what it is best at; None on a CPU."""
    if device.type == "cpu":
        return None
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    tflop = 2 * SIDE**3 / 1e12
    torch.mm(a, b)
    single = []
    for _ in range(SINGLE):
        torch.cuda.synchronize(device)
        clock = Clock(device)
        clock.mark()
        torch.mm(a, b)
        clock.mark()
        single += clock.gaps_ms()
    started, count = time.monotonic(), 0
    while time.monotonic() - started < SUSTAINED_S:
        for _ in range(50):
            torch.mm(a, b)
        torch.cuda.synchronize(device)
        count += 50
    sustained = tflop * count / (time.monotonic() - started)
    del a, b
    torch.cuda.empty_cache()
    return Rate(tflop / median(single) * 1e3, sustained)
