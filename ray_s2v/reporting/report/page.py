"""`write_report`: the page of a run."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ray_s2v.reporting.report.curve import Curve, Drawing, drawn
from ray_s2v.reporting.report.curves import held_out_curves, sound_curve, speed_curves, training_curves
from ray_s2v.reporting.report.figures import figures
from ray_s2v.reporting.report.recorded import Recorded, read_run
from ray_s2v.reporting.report.videos import videos

NAME = "report.html"
MOST_EMBEDDED = 60 * 2**20  # bytes of video that lie in the page; as text they are a third more
OPEN_STEPS = 3  # of the validation videos, before the older ones fold
MAX_LISTED = 500  # clips


def write_report(folder: Path, most_embedded: int = MOST_EMBEDDED) -> Path:
    """Writes report.html into a run's folder, whole or not at all, and returns its path.

    It is one file, without scripts, that loads nothing from any network; only videos beyond `most_embedded` bytes stay beside it.
    Raises ConfigError if the folder is not one of a run, or a file in it is damaged.
    """
    text = page(read_run(folder), most_embedded)
    path = folder / NAME
    half_written = path.with_name(f".{NAME}.{os.getpid()}.part")
    try:
        half_written.write_text(text, encoding="utf-8")
        half_written.replace(path)
    finally:
        half_written.unlink(missing_ok=True)
    return path


def page(run: Recorded, most_embedded: int) -> str:
    """The run as HTML. Everything of the run's is escaped by the template."""
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sound = sound_curve(run)
    return pages.get_template("page.html").render(
        run=run,
        name=run.folder.resolve().name,
        place=run.folder.resolve(),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        figures=figures(run),
        sound=None if sound.is_empty else _drawn(sound, run),
        held_out=_all_drawn(held_out_curves(run), run),
        training=_all_drawn(training_curves(run), run),
        speed=_all_drawn(speed_curves(run), run),
        videos=videos(run.folder, run.validations, _prompts(run), most_embedded),
        open_steps=OPEN_STEPS,
        chosen=list(_flat(run.job.model_dump(mode="json", exclude_defaults=True))) if run.job else [],
        settings=list(_flat(run.settings)) if run.settings else [],
        unreadable=_unreadable(run),
        most_listed=MAX_LISTED,
    )


def _all_drawn(curves: list[Curve], run: Recorded) -> list[Drawing]:
    return [_drawn(curve, run) for curve in curves if not curve.is_empty]


def _drawn(curve: Curve, run: Recorded) -> Drawing:
    return drawn(curve, run.done, [resumption.step for resumption in run.resumptions])


def _prompts(run: Recorded) -> dict[str, str]:
    """Of the scenes that the job makes videos of, by name."""
    if not (run.job and run.job.validation):
        return {}
    validation = run.job.validation
    return {scene.name: scene.prompt for scene in validation.scenes} | {name: prompt.prompt for name, prompt in validation.prompts.items()}


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each setting as section.key and its value in YAML."""
    has_sections = isinstance(value, list) and any(isinstance(item, dict) for item in value)
    if has_sections or (isinstance(value, dict) and value):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
        yield key, text.removesuffix("\n...\n").strip()


def _unreadable(run: Recorded) -> list[tuple[str, str, list[int]]]:
    """Clip, reason, and the steps at which it could not be read."""
    steps: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in run.steps:
        for clip, reason in line["unreadable"].items():
            steps[clip, reason].append(line["step"] + 1)
    for line in run.held_out:
        for clip, reason in line["unreadable"].items():
            steps[f"{clip} (held out)", reason].append(line["step"])
    return [(clip, reason, at) for (clip, reason), at in steps.items()]
