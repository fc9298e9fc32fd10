"""A run on the terminal: a line that renews itself, or a plain line each few steps where there is none."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

PLAIN_EVERY_S = 5.0  # between plain lines, beside the first and the last


def duration(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class Progress:
    """Shows the records of steps as they come."""

    num_steps: int
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    step_s: list[float] = field(default_factory=list)
    shown_at: float = float("-inf")

    def show(self, record: dict[str, Any]) -> None:
        """Takes what training/driver.py's run_training reports."""
        if "held_out" in record:
            self.note(held_out_line(record["held_out"]))
        elif "validation" in record:
            self.note(validation_line(record["validation"]))
        elif "preview" in record:
            self.note("step {step}, {scene}: a preview is {video}".format(**record["preview"]))
        elif "checkpoint" not in record:
            self._show_step(record)

    def _show_step(self, record: dict[str, Any]) -> None:
        self.step_s.append(record["step_s"])
        is_last = record["step"] + 1 == self.num_steps
        for clip, reason in record["unreadable"].items():
            self.note(f"step {record['step'] + 1}: {clip} could not be read and adds nothing: {reason}")
        if self.stream.isatty():
            self.stream.write(f"\r\033[K{self.line(record)}" + ("\n" if is_last else ""))
            self.stream.flush()
        elif is_last or time.monotonic() - self.shown_at >= PLAIN_EVERY_S:
            self.shown_at = time.monotonic()
            self.note(self.line(record))

    def line(self, record: dict[str, Any]) -> str:
        """Step, loss, learning rate, clips a second, share of time waiting for data, memory and time left."""
        recent = self.step_s[-20:]
        seconds = sorted(recent)[len(recent) // 2]
        left = duration(seconds * (self.num_steps - record["step"] - 1))
        parts = [
            f"step {record['step'] + 1}/{self.num_steps}",
            f"loss {record['loss']:.4f}",
            f"lr {record['learning_rate']:.2e}",
            f"{len(record['clip_ids']) / record['step_s']:.2f} clips/s",
            f"data wait {record['wait_s'] / record['step_s']:.0%}",
            f"{record['memory_gib']:.1f} GiB",
            f"left {left}",
        ]
        return "  ".join(parts)

    def note(self, text: str) -> None:
        """A line of its own, beside those of the steps."""
        self.stream.write(("\r\033[K" if self.stream.isatty() else "") + text + "\n")
        self.stream.flush()


def held_out_line(record: dict[str, Any]) -> str:
    """The held-out loss after so many steps, how much of it hangs on the sound, and what could not be read."""
    parts = [f"held out after {record['step']} steps: loss {record['loss']:.4f}"]
    if record["worse_without_sound"] is not None:
        parts.append(f"without sound {record['worse_without_sound']:+.4f}")
        parts.append(f"with another's {record['worse_with_other_sound']:+.4f}")
    parts += [f"{clip} could not be read: {reason}" for clip, reason in record["unreadable"].items()]
    return "  ".join(parts)


def validation_line(record: dict[str, Any]) -> str:
    """Which videos there are after so many steps, and where, and why others are not."""
    videos = list(record["videos"].values())
    parts = [f"videos after {record['step']} steps: {', '.join(videos) or 'none'}"]
    return "  ".join(parts + [f"{name} failed: {reason}" for name, reason in record["failed"].items()])


@dataclass
class Count:
    """Shows how many of a kind of things are done, how fast, and how long the rest will take."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    kind: str = ""
    started_at: float = 0.0
    shown_at: float = float("-inf")

    def show(self, kind: str, done: int, total: int) -> None:
        now = time.monotonic()
        if kind != self.kind:
            self.kind, self.started_at, self.shown_at = kind, now, float("-inf")
        is_last = done == total
        if not is_last and not self.stream.isatty() and now - self.shown_at < PLAIN_EVERY_S:
            return
        self.shown_at = now
        # The first is not counted: the encoder was loaded before it.
        rate = (done - 1) / max(now - self.started_at, 1e-6)
        parts = [f"{kind} {done}/{total}"]
        if done > 1:
            parts += [f"{rate:.2f}/s", f"left {duration((total - done) / rate)}"]
        line = "  ".join(parts)
        self.stream.write(f"\r\033[K{line}" + ("\n" if is_last else "") if self.stream.isatty() else line + "\n")
        self.stream.flush()
