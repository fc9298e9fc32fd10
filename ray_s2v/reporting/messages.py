"""What services outside of the run are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ray_s2v.config.tracking import Kind


@dataclass(frozen=True)
class Figures:
    """Points of curves, by chart."""

    step: int  # steps done
    values: dict[str, float]


@dataclass(frozen=True)
class Video:
    """A video that was made of what is learnt."""

    step: int  # steps done
    chart: str
    path: Path  # an MP4, with sound where there is any


@dataclass(frozen=True)
class Event:
    """Something that a person wants to hear of."""

    kind: Kind
    run: str
    step: int  # steps done
    num_steps: int
    figures: dict[str, float] = field(default_factory=dict)  # by chart
    videos: dict[str, Path] = field(default_factory=dict)  # by scene
    text: str = ""  # in lines: an error, scenes that failed


Message = Figures | Video | Event
