"""A picture of a sweep: the held-out loss of each trial over its steps, and the last one against each swept value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from ray_s2v.config.sweep import Range
from ray_s2v.reporting.table import end_of
from ray_s2v.reporting.trials import State, TrialRecord, best_of, ranked, short_names, shown_value

# Told apart by the colour-blind too (Okabe and Ito), and on white.
FEW_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BEST_COLOUR = "#D55E00"  # among many
MANY_COLOURS = LinearSegmentedColormap.from_list("losses", colormaps["viridis"]([i / 100 for i in range(90)]))  # without its palest yellow
PANELS_OF_A_COLUMN = 2
PANEL = (4.2, 3.4)  # inches, of one swept setting
LOSSES_WIDTH = 7.0
DPI = 120
MOST_TICKS = 8  # at values of a list; more and longer ones stand on end
LOG_ABOVE = 20.0  # a list's largest value over its smallest
MARKERS: dict[State, str] = {"done": "o", "stopped early": "o", "failed": "X", "running": "s", "waiting": "s"}


@dataclass(frozen=True)
class _Drawn:
    """What all panels share."""

    records: list[TrialRecord]  # with a loss, the best last, so that it lies on top
    best: TrialRecord | None
    colours: dict[str, Any]  # of each trial's name
    all_losses: tuple[float, float]  # the lowest, and the highest that is shown: those above leave the picture
    last_losses: tuple[float, float]  # likewise

    @property
    def is_few(self) -> bool:
        """Whether each trial has a colour of its own."""
        return len(self.records) <= len(FEW_COLOURS)


def save_picture(path: Path, records: Sequence[TrialRecord], space: Mapping[str, Range]) -> None:
    """Writes a PNG, whole or not at all. Trials without a loss are not in it; some of them may still be running."""
    partial = path.with_name(f".partial-{path.name}")
    picture(records, space).savefig(partial, format="png", dpi=DPI)
    partial.rename(path)


def picture(records: Sequence[TrialRecord], space: Mapping[str, Range]) -> Figure:
    """On the left the losses, on the right a panel for each swept setting, in columns of two."""
    drawn = _drawn(records)
    names = short_names(space)
    rows = min(len(space), PANELS_OF_A_COLUMN)
    columns = math.ceil(len(space) / rows)
    figure = Figure(figsize=(LOSSES_WIDTH + columns * PANEL[0], max(rows * PANEL[1], 4.6)), layout="constrained")
    grid = figure.add_gridspec(rows, 1 + columns, width_ratios=[LOSSES_WIDTH, *[PANEL[0]] * columns])
    _draw_losses(figure.add_subplot(grid[:, 0]), drawn)
    for number, (key, values) in enumerate(space.items()):
        panel = figure.add_subplot(grid[number % rows, 1 + number // rows])
        _draw_values(panel, drawn, key, values)
        panel.set_xlabel(names[key])
        if number < rows:
            panel.set_ylabel("last loss")
    figure.legend(handles=_legend(drawn, names), loc="outside lower left", ncols=2 if drawn.is_few else 1, frameon=False, fontsize=9)
    return figure


def _drawn(records: Sequence[TrialRecord]) -> _Drawn:
    there, best = [record for record in reversed(ranked(records)) if record.points], best_of(records)
    last = _limits([loss for _, loss in (record.points[-1] for record in there)])
    if len(there) <= len(FEW_COLOURS):
        by_name = sorted(record.name for record in there)
        colours: dict[str, Any] = dict(zip(by_name, FEW_COLOURS, strict=False))
    else:
        scale = Normalize(*last, clip=True)
        colours = {record.name: BEST_COLOUR if record is best else MANY_COLOURS(scale(record.points[-1][1])) for record in there}
    return _Drawn(there, best, colours, _limits([loss for record in there for _, loss in record.points]), last)


def _limits(losses: Sequence[float]) -> tuple[float, float]:
    """The lowest loss and the highest that is shown: trials that went astray must not flatten all the others."""
    if len(losses) < 2:
        return (losses[0], losses[0]) if losses else (0.0, 1.0)
    low, high = min(losses), max(losses)
    within = low + 3 * (quantiles(losses, n=4)[2] - low)
    return low, (within if low < within < low + (high - low) / 2 else high)


def _draw_losses(axes: Axes, drawn: _Drawn) -> None:
    axes.set_title("loss of the held-out clips", loc="left")
    axes.set_xlabel("steps done")
    axes.set_ylabel("loss (mean squared error of the velocity)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for record in drawn.records:
        is_best = record is drawn.best
        axes.plot(
            [step for step, _ in record.points],
            [loss for _, loss in record.points],
            color=drawn.colours[record.name],
            linewidth=2.4 if is_best else 1.6 if drawn.is_few else 0.9,
            linestyle="--" if record.state == "failed" else "-",
        )
        _mark(axes, drawn, record, record.points[-1][0], drawn.all_losses[1])
    _fit(axes, drawn.all_losses)
    if not drawn.records:
        axes.text(0.5, 0.5, "no loss yet", transform=axes.transAxes, ha="center", color="#555555")
    elif not drawn.is_few:
        assert axes.figure is not None
        colours = ScalarMappable(Normalize(*drawn.last_losses), MANY_COLOURS)
        axes.figure.colorbar(colours, ax=axes, label="last loss", pad=0.02, aspect=40)


def _draw_values(axes: Axes, drawn: _Drawn, key: str, values: Range) -> None:
    axes.grid(color="#dddddd", linewidth=0.6)
    listed = values.values or []
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in listed)
    if is_number:
        if values.is_log or (listed and min(listed) > 0 and max(listed) > LOG_ABOVE * min(listed)):
            axes.set_xscale("log")
        if listed and len(listed) <= MOST_TICKS:
            axes.xaxis.set_major_locator(FixedLocator(listed))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(listed, [shown_value(value) for value in listed])
        elif not values.is_log:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=values.is_whole))
    else:
        axes.set_xticks(range(len(listed)), [shown_value(value) for value in listed])
        axes.set_xlim(-0.5, len(listed) - 0.5)
    for record in drawn.records:
        value = record.values[key]
        _mark(axes, drawn, record, value if is_number else listed.index(value), drawn.last_losses[1])
    axes.margins(x=0.12)
    _fit(axes, drawn.last_losses)


def _mark(axes: Axes, drawn: _Drawn, record: TrialRecord, x: float, top: float) -> None:
    """A trial's last loss; one that leaves the picture is a triangle at its top."""
    loss, colour, is_best = record.points[-1][1], drawn.colours[record.name], record is drawn.best
    axes.plot(
        [x],
        [min(loss, top)],
        marker="*" if is_best else "^" if loss > top else MARKERS[record.state],
        markersize=15 if is_best else 7,
        markerfacecolor="white" if record.state == "stopped early" else colour,
        markeredgecolor="black" if is_best else colour,
        markeredgewidth=0.8 if is_best else 1.4,
        linestyle="",
        clip_on=False,
        zorder=4 if is_best else 3,
    )


def _fit(axes: Axes, losses: tuple[float, float]) -> None:
    low, top = losses
    room = (top - low or abs(low) or 1.0) * 0.06
    axes.set_ylim(low - room, top + room)
    axes.ticklabel_format(axis="y", useOffset=False)


def _legend(drawn: _Drawn, names: Mapping[str, str]) -> list[Line2D]:
    """The trials where they are few, else the best; then what the marks mean, of those that there are."""

    def line(record: TrialRecord) -> Line2D:
        values = ", ".join(f"{name} {shown_value(record.values[key])}" for key, name in names.items())
        label = f"{end_of(record.name, 24)}: {values}" + f", the best, {record.points[-1][1]:.5f}" * (record is drawn.best)
        return Line2D([], [], color=drawn.colours[record.name], linewidth=2, label=label)

    def mark(marker: str, label: str, fill: str = "#555555", size: float = 7) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, markersize=size, color="#555555", markerfacecolor=fill, label=label)

    states = {record.state for record in drawn.records}
    marks = [
        (drawn.best is not None, mark("*", "the best", size=12)),
        ("stopped early" in states, mark("o", "stopped early", fill="white")),
        ("failed" in states, mark("X", "failed")),
        ("running" in states, mark("s", "running")),
        (any(record.points[-1][1] > drawn.last_losses[1] for record in drawn.records), mark("^", "loss above the picture")),
    ]
    lines = [line(record) for record in reversed(drawn.records) if drawn.is_few or record is drawn.best]
    return lines + [shown for is_there, shown in marks if is_there]
