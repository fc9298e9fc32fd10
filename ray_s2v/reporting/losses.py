"""How the loss of a run went, up to one of its adapters, and a picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ray_s2v.reporting.report.recorded import Recorded

STEPS_COLOUR, HELD_OUT_COLOUR = "#0072B2", "#D55E00"  # told apart by the colour-blind too (Okabe and Ito)
SIZE = (7.0, 4.0)  # inches
DPI = 120
SMOOTHED = 25  # steps, of which the line is the median


@dataclass(frozen=True)
class Losses:
    steps: dict[int, dict[str, Any]]  # lines of steps.jsonl by steps done: from 1
    held_out: dict[int, dict[str, Any]]  # of held_out.jsonl likewise, from 0

    @property
    def num_clips(self) -> int:
        return len({clip for line in self.steps.values() for clip in line["clip_ids"]})


def losses_of(run: Recorded, last: int | None) -> Losses:
    """Up to `last` steps done, or all."""
    steps = {line["step"] + 1: line for line in run.steps if last is None or line["step"] < last}
    return Losses(steps, {line["step"]: line for line in run.held_out if last is None or line["step"] <= last})


def losses_picture(losses: Losses) -> Figure:
    """The loss of each step, faint, with the median of those around it, and that of the held-out clips."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("steps done")
    axes.set_ylabel("loss (mean squared error of the velocity)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    steps, values = list(losses.steps), [record["loss"] for record in losses.steps.values()]
    around = [median(values[max(0, at - SMOOTHED // 2) : at + SMOOTHED // 2 + 1]) for at in range(len(values))]
    axes.plot(steps, values, color=STEPS_COLOUR, alpha=0.25, linewidth=0.9, label="each step")
    axes.plot(steps, around, color=STEPS_COLOUR, linewidth=1.8, label=f"median of {SMOOTHED} steps")
    if losses.held_out:
        held_out = [record["loss"] for record in losses.held_out.values()]
        axes.plot(list(losses.held_out), held_out, color=HELD_OUT_COLOUR, marker="o", markersize=4, label="held-out clips")
    axes.legend(frameon=False)
    return figure
