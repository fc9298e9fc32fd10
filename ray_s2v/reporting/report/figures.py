"""The run in figures: what stands at the head of its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_s2v.reporting.report.curve import shown
from ray_s2v.reporting.report.curves import smoothed_over
from ray_s2v.reporting.report.recorded import Recorded
from ray_s2v.reporting.terminal import duration

RECENT = 50  # steps


@dataclass(frozen=True)
class Figure:
    name: str
    value: str
    more: str
    is_first: bool = False  # the one to look at


def figures(run: Recorded) -> list[Figure]:
    """Steps, losses, what the sound is worth, time and speed; those of which nothing is known yet are left out."""
    return [_steps(run), *_losses(run), *_sound(run), *_speed(run)]


def _steps(run: Recorded) -> Figure:
    if run.num_steps is None:
        epochs = run.job.training.epochs if run.job else None
        return Figure("Steps done", f"{run.done:,}", f"of {epochs} epochs" if epochs else "")
    return Figure("Steps done", f"{run.done:,}", f"of {run.num_steps:,}, {run.done / run.num_steps:.0%}")


def _losses(run: Recorded) -> list[Figure]:
    found = []
    if losses := [line["loss"] for line in run.steps]:
        over = min(smoothed_over(len(losses)), len(losses))
        found.append(
            Figure("Loss", shown(_mean(losses[-over:])), f"{_since(_mean(losses[:over]), _mean(losses[-over:]))}; means of {over}")
        )
    if run.held_out:
        first, last = run.held_out[0]["loss"], run.held_out[-1]["loss"]
        found.append(Figure("Held-out loss", shown(last), _since(first, last)))
    return found


def _sound(run: Recorded) -> list[Figure]:
    compared = [line["worse_with_other_sound"] for line in run.held_out if line["worse_with_other_sound"] is not None]
    if not compared:
        return []
    first = f"; {_signed(compared[0])} at first" if len(compared) > 1 else ""
    return [Figure("Audio sensitivity", _signed(compared[-1]), f"worse with another clip's sound{first}", is_first=True)]


def _speed(run: Recorded) -> list[Figure]:
    recent = run.steps[-RECENT:]
    if not recent:
        return []
    seconds = sum(line["step_s"] for line in recent)
    a_step = sorted(line["step_s"] for line in recent)[len(recent) // 2]
    waiting = sum(line["wait_s"] for line in recent) / seconds
    left = f", {duration(a_step * (run.num_steps - run.done))} left" if run.state == "running" and run.num_steps else ""
    return [
        Figure("Time in steps", duration(run.spent_s), f"{shown(round(a_step, 2))} s a step{left}"),
        Figure(
            "Clips a second", shown(sum(len(line["clip_ids"]) for line in recent) / seconds), f"waits for data {waiting:.0%} of the time"
        ),
    ]


def _since(first: float, last: float) -> str:
    return f"{shown(first)} at first" + (f", {last / first - 1:+.1%}" if first and first != last else "")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + shown(value)
