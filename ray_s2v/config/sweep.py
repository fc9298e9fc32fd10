"""A sweep: a job, the settings that its trials differ in, how these are chosen, and which trials end early."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ray_s2v.config.section import Count, Section, Seed, Share, Text, refuse

MOST_OF_A_GRID = 10_000  # trials; more is a slip
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # 1e-4, which YAML 1.1 takes for text

_FIGURE = "the held-out losses of trials that differ in it could not be compared; give it in set, for all"
WHICH_CLIPS = "trials must share the clips that are held out; name a setting of a source that is trained on"
# What trials must not differ in, the sections that hold it, and the settings below it.
FIXED = {
    "run.folder": "every trial gets a folder of its own below the sweep's",
    "demo": "trials share the clips and weights that are made; give it in set, for all",
    "data.store": "trials share one store; give it in set, for all",
    "data.feature_dtype": _FIGURE,
    "encoders.vae.path": _FIGURE,
    "encoders.speech.path": _FIGURE,
    "encoders.text.path": _FIGURE,
    "encoders.text.tokenizer": _FIGURE,
    "flow": _FIGURE,
    "held_out": _FIGURE,
    "training.steps": "trials are compared after the same number of steps; give it in set, for all",
    "training.epochs": "trials are compared after the same number of steps; give training.steps in set, for all",
    "checkpoint.resume": "a trial goes on from its own checkpoints; give it in set, where all shall begin with the same",
    "checkpoint.copy_to": "a place of copies is of one run alone",
}
_NAMES_CLIPS = re.compile(r"data(\.sources(\.\d+(\.is_eval)?)?)?")
# What a run can change while it keeps its checkpoint: nothing that its plan, its network or its adapter's scale depends on.
_CHANGEABLE = re.compile(r"training\.(learning_rate|weight_decay|clip_grad_norm)|lora\.dropout|tread\.routes\.\d+\.selection_ratio")
CHANGEABLE = "training.learning_rate, training.weight_decay, training.clip_grad_norm, lora.dropout and tread.routes.N.selection_ratio"

Kind = Literal["values", "uniform", "log_uniform", "integer", "log_integer"]
KINDS: tuple[Kind, ...] = ("values", "uniform", "log_uniform", "integer", "log_integer")


class Range(Section):
    """What one setting may be, said in one of these ways. Both ends belong to a range."""

    values: Annotated[list[Any], Field(min_length=1)] | None = None
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    log_integer: tuple[int, int] | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name != "values":
            return super()._usable(value, info)
        # Each value is for the job to check; true and false are some settings' own.
        return [_number(item) for item in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _said_once(self) -> Range:
        refuse(self._wrong_ends())
        return self

    def _wrong_ends(self) -> Iterator[str]:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            yield f"give one of {', '.join(KINDS)}{', not ' + ' and '.join(given) if given else ''}"
            return
        if self.kind == "values":
            assert self.values is not None
            twice = [value for number, value in enumerate(self.values) if value in self.values[:number]]
            yield from (f"values: {value!r} is given twice" for value in twice)
            return
        low, high = self.ends
        if low >= high:
            yield f"{self.kind}: the low end {low} must be below the high end {high}"
        if self.is_log and low <= 0:
            yield f"{self.kind}: the low end {low} must be above 0"

    @property
    def kind(self) -> Kind:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def ends(self) -> tuple[float, float]:
        """Low and high of what is no list of values; whole numbers where `is_whole`."""
        assert self.kind != "values"
        ends: tuple[float, float] = getattr(self, self.kind)
        return ends

    @property
    def is_log(self) -> bool:
        return self.kind.startswith("log_")

    @property
    def is_whole(self) -> bool:
        return self.kind.endswith("integer")

    def extremes(self) -> list[Any]:
        """Values that show whether all can be: each of a list, the ends of a range."""
        return list(self.ends) if self.values is None else list(self.values)


class Asha(Section):
    """Trials that do worse than others at the same step end early."""

    grace_steps: Count  # before the first of them may end; then again after this times the factor, its square, ...
    reduction_factor: Annotated[int, Field(ge=2)] = 3  # one of so many goes on each time


class Pbt(Section):
    """Population based training: trials that do badly go on from the checkpoint of one that does well, with other values."""

    every_steps: Count
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25  # share of the population that is replaced, by as many of the best
    resample: Share = 0.25  # how often a value is drawn anew from its range, and not moved by a fifth


class Sweep(Section):
    folder: Text  # of all trials and results; every machine of the cluster must see it
    job: str | dict[str, Any]  # a job file, its path beginning at the sweep file's folder; when loaded, its settings
    set: dict[str, Any] = Field(default={})  # of all trials, by section.key
    space: Annotated[dict[str, Range], Field(min_length=1)]  # by section.key
    search: Literal["grid", "random", "optuna"]
    trials: Count | None = None  # of a grid, all combinations
    seed: Seed = 42  # of the values that are drawn
    at_once: Count | None = None  # at most so many trials side by side; as many as there is room for when none is given
    asha: Asha | None = None
    pbt: Pbt | None = None

    @field_validator("job", mode="before")
    @classmethod
    def _file_or_settings(cls, value: Any) -> Any:
        if not isinstance(value, str | dict) or not value:
            raise ValueError("must be the path of a job file")
        return value

    @model_validator(mode="after")
    def _settings_agree(self) -> Sweep:
        refuse([*self._wrong_keys(), *self._wrong_search(), *self._wrong_schedulers()])
        return self

    def _wrong_keys(self) -> Iterator[str]:
        for key in self.space:
            if reason := why_fixed(key):
                yield f"space.{key}: {reason}"
            for other in [other for other in self.space if other != key and _holds(key, other)]:
                yield f"space.{key} and space.{other} are about the same setting: give one"
            for other in [other for other in self.set if _holds(key, other)]:
                yield f"space.{key}: {other} is given in set too"
        if any(_holds(key, "run.folder") for key in self.set):
            yield f"set: {FIXED['run.folder']}"

    def _wrong_search(self) -> Iterator[str]:
        if self.search != "grid":
            if self.trials is None:
                yield f"search: {self.search} needs trials, how many there shall be"
            return
        if self.trials is not None:
            yield "search: grid runs every combination: leave trials out"
        for key, values in self.space.items():
            if values.kind != "values":
                yield f"space.{key}: a grid needs values, not {values.kind}; or give search: random"
        if self.grid_size > MOST_OF_A_GRID:
            yield f"space: a grid of {self.grid_size} trials; at most {MOST_OF_A_GRID}"

    def _wrong_schedulers(self) -> Iterator[str]:
        if self.asha and self.pbt:
            yield "asha and pbt both say which trials go on: give one"
        if not self.pbt:
            return
        if self.search != "random":
            yield f"pbt draws and changes the values itself: give search: random, not {self.search}"
        if self.trials == 1:
            yield "pbt needs a population: give trials of at least 2"
        for key in self.space:
            if not _CHANGEABLE.fullmatch(key):
                yield f"space.{key}: pbt can change only what a checkpoint does not depend on: {CHANGEABLE}"

    @property
    def grid_size(self) -> int:
        """Combinations of the values of all settings that have such."""
        return math.prod(len(values.values) for values in self.space.values() if values.values)


def why_fixed(key: str) -> str:
    """Why trials must not differ in a setting; empty where they may. What a source is for is the job's to say."""
    if _NAMES_CLIPS.fullmatch(key):
        return WHICH_CLIPS
    return next((reason for place, reason in FIXED.items() if _holds(place, key) or _holds(key, place)), "")


def _holds(section: str, key: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
