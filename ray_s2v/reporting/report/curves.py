"""Which curves a run's page shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ray_s2v.reporting.report.curve import Curve, Point, Series, finite, running_mean, shown
from ray_s2v.reporting.report.recorded import Line, Recorded

BLUE, ORANGE, GREEN, VIOLET = "var(--blue)", "var(--orange)", "var(--green)", "var(--violet)"


def smoothed_over(num_steps: int) -> int:
    """Steps whose mean is shown as the smoothed curve of so many."""
    return max(5, num_steps // 40)


def sound_curve(run: Recorded) -> Curve:
    """What the loss of held-out clips owes to their sound: whether the LoRA follows the speech."""
    series = [
        Series("with another clip's sound", ORANGE, finite((line["step"], line["worse_with_other_sound"]) for line in run.held_out)),
        Series("without sound", VIOLET, finite((line["step"], line["worse_without_sound"]) for line in run.held_out)),
    ]
    return Curve("How much worse with a wrong sound", "held-out loss, above that with the clip's own sound", series, has_zero=True)


def held_out_curves(run: Recorded) -> list[Curve]:
    """The held-out loss, and by level of noise."""
    points = finite((line["step"], line["loss"]) for line in run.held_out)
    return [
        Curve("Held-out loss", "of clips that are not trained on, at fixed noise", [Series("loss", BLUE, points)]),
        Curve("Held-out loss by level of noise", "change since the first, in %", _by_level(run.held_out), has_zero=True),
    ]


def training_curves(run: Recorded) -> list[Curve]:
    """Loss, learning rate and gradient norm of the steps."""
    losses, norms = _points(run.steps, lambda line: line["loss"]), _points(run.steps, lambda line: line["gradient_norm"])
    rates = _points(run.steps, lambda line: line["learning_rate"])
    return [
        Curve("Loss", "of the clips of each step; their noise differs", _with_mean(losses, BLUE), is_cut=True),
        Curve("Learning rate", "", [Series("learning rate", GREEN, rates)], has_zero=True),
        Curve("Gradient norm", "before it is clipped", _with_mean(norms, VIOLET), is_cut=True),
    ]


def speed_curves(run: Recorded) -> list[Curve]:
    """How fast the steps were, what they waited for, and the memory they took."""
    steps = run.steps
    is_gpu = run.job is None or run.job.training.worker_gpus > 0
    memory = "GPU memory" if is_gpu else "Memory"
    whole = Series("step", BLUE, _points(steps, lambda line: line["step_s"]))
    waiting = Series("of it waiting for data", ORANGE, _points(steps, lambda line: line["wait_s"]))
    shares = _points(steps, lambda line: 100 * line["wait_s"] / line["step_s"])
    return [
        Curve("Clips a second", "", _with_mean(_points(steps, lambda line: len(line["clip_ids"]) / line["step_s"]), GREEN), has_zero=True),
        Curve("Seconds a step", "", [whole, waiting], is_cut=True, has_zero=True),
        Curve("Waiting for data", "share of each step, in %", _with_mean(shares, ORANGE), has_zero=True),
        Curve(
            memory,
            f"GiB at its peak, of the first worker{'' if is_gpu else ', which runs on a CPU'}",
            [Series("GiB", VIOLET, _points(steps, lambda line: line["memory_gib"]))],
            has_zero=True,
        ),
    ]


def _points(steps: Sequence[Line], value: Callable[[Line], float]) -> list[Point]:
    return finite((line["step"] + 1, value(line)) for line in steps)


def _with_mean(points: list[Point], colour: str) -> list[Series]:
    over = smoothed_over(len(points))
    return [Series("each step", colour, points, is_faint=True), Series(f"mean of {over} steps", colour, running_mean(points, over))]


def _by_level(held_out: Sequence[Line]) -> list[Series]:
    """A line a level, in percent of its first loss; from the least noise to the most."""
    if not held_out:
        return []
    series, count = [], len(held_out[-1]["by_level"])
    lines = [line for line in held_out if len(line["by_level"]) == count]  # a run may go on with others
    for level in range(count):
        first, last = (line["by_level"][level] for line in (lines[0], lines[-1]))
        points = finite((line["step"], 100 * (line["by_level"][level] / first - 1)) for line in lines)
        hue = 200 + 130 * level / max(count - 1, 1)
        series.append(Series(f"{100 * (level + 0.5) / count:.0f} % noise, now {shown(last)}", f"hsl({hue:.0f} 65% 56%)", points))
    return series
