"""Sweep files: YAML with overrides to a Sweep, and the job of each of its trials."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_s2v.config.job import Job
from ray_s2v.config.sweep import WHICH_CLIPS, Sweep
from ray_s2v.config.tracking import Tracking
from ray_s2v.job_file import A_JOB, job_of
from ray_s2v.schema import ConfigError
from ray_s2v.settings_file import override, read_override, read_settings, set_value, told, validated

_A_JOBS = "it is the job's: give it in set, as section.key: value"
HINTS = {name: _A_JOBS for name in Job.model_fields}


def load_sweep(path: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep of a YAML file with overrides, its job read: `Sweep.job` holds the job's settings, without those of `set`.

    overrides: `key=value` of the sweep; those that begin with a section of the job go into `set`. Every combination of a grid is
    checked as a job; of other searches each end of each range, the others at their first. Raises ConfigError listing every mistake.
    """
    settings = read_settings(path, f"a sweep is a mapping of {', '.join(Sweep.model_fields)}")
    mistakes = [mistake for text in overrides if (mistake := _override(settings, text))]
    sweep, wrong = validated(Sweep, settings, HINTS)
    mistakes += wrong
    if sweep:
        sweep = _with_job(sweep, path)
        mistakes += _wrong_trials(sweep)
    if mistakes or not sweep:
        raise told(path, mistakes)
    return sweep


def trial_job(sweep: Sweep, values: Mapping[str, Any]) -> Job:
    """The job of one trial: the sweep's job with `set`, then `values` by their dotted keys. Raises ConfigError."""
    job, mistakes = _trial(sweep, values)
    if job is None:
        raise told(described(values), mistakes)
    return job


def combinations(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """All values of all trials of a grid; of other searches those that show whether all can be."""
    tried = {key: found.extremes() for key, found in sweep.space.items()}
    if sweep.search == "grid":
        yield from (dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values()))
        return
    first = {key: values[0] for key, values in tried.items()}
    yield first
    yield from (first | {key: value} for key, values in tried.items() for value in values[1:])


def described(values: Mapping[str, Any]) -> str:
    """`training.learning_rate=0.001, lora.rank=4`"""
    return ", ".join(f"{key}={value}" if str(value).isprintable() else f"{key}={value!r}" for key, value in values.items())


def _override(settings: dict[Any, Any], text: str) -> str | None:
    """Like settings_file.override; a setting of the job goes to those of `set`."""
    common = settings.setdefault("set", {})
    if text.partition("=")[0].split(".")[0] not in Job.model_fields or not isinstance(common, dict):
        return override(settings, text)
    try:
        key, value = read_override(text)
    except ConfigError as error:
        return str(error)
    common[key] = value
    return None


def _with_job(sweep: Sweep, path: str) -> Sweep:
    """The sweep with the settings of the job file that it names."""
    if isinstance(sweep.job, dict):
        return sweep
    file = Path(path).parent / os.path.expanduser(sweep.job)
    return sweep.model_copy(update={"job": read_settings(str(file), A_JOB)})


def _trial(sweep: Sweep, values: Mapping[str, Any]) -> tuple[Job | None, list[str]]:
    assert isinstance(sweep.job, dict), "the sweep was not loaded by load_sweep"
    settings = copy.deepcopy(sweep.job)
    given = [*sweep.set.items(), *values.items()]
    mistakes = [mistake for key, value in given if (mistake := set_value(settings, key, copy.deepcopy(value)))]
    job, wrong = job_of(settings)
    return (None if mistakes else job), mistakes + wrong


def _wrong_trials(sweep: Sweep) -> list[str]:
    """What is wrong with the jobs of trials, each mistake once, and with what the sweep asks of all of them."""
    cases = list(combinations(sweep))
    found: dict[str, list[Mapping[str, Any]]] = {}
    good = None
    for values in cases:
        job, mistakes = _trial(sweep, values)
        good = good or job
        for mistake in mistakes:
            found.setdefault(mistake, []).append(values)
    return [_of_cases(mistake, wrong, len(cases)) for mistake, wrong in found.items()] + (_wrong_for(sweep, good) if good else [])


def _of_cases(mistake: str, wrong: Sequence[Mapping[str, Any]], num_cases: int) -> str:
    if len(wrong) == num_cases:
        return f"job: {mistake}"
    others = len(wrong) - 1
    more = f" (and {others} other combination{'s' * (others > 1)})" if others else ""
    return f"job with {described(wrong[0])}{more}: {mistake}"


def _wrong_for(sweep: Sweep, job: Job) -> list[str]:
    """What is wrong with a sweep over this job, whose settings are good in themselves."""
    mistakes = []
    for key in sweep.space:
        parts = key.split(".")
        if parts[:2] == ["data", "sources"] and job.data.sources[int(parts[2])].is_eval:
            mistakes.append(f"space.{key}: {WHICH_CLIPS}")
    if not any(source.is_eval for source in job.data.sources):
        mistakes.append("job: trials are compared by the loss of clips that are held out: give is_eval: true to a source of its own")
    mistakes += _done_by_no_trial(job)
    if job.checkpoint.copy_to:
        mistakes.append("job: checkpoint.copy_to is of one run alone; give in set checkpoint.copy_to: null")
    steps, held_out = job.training.steps, job.held_out.every
    if steps is None:
        return [*mistakes, "job: a sweep counts steps: give training.steps and not training.epochs, in the job or in set"]
    if sweep.asha:
        grace = sweep.asha.grace_steps
        if grace % held_out:
            mistakes.append(f"asha.grace_steps {grace} must be a multiple of held_out.every {held_out}: only then a trial can be judged")
        if grace >= steps:
            mistakes.append(f"asha.grace_steps {grace} must be below training.steps {steps}: else no trial ends early")
    if sweep.pbt:
        every = sweep.pbt.every_steps
        if every % held_out or every % job.checkpoint.every:
            mistakes.append(
                f"pbt.every_steps {every} must be a multiple of held_out.every {held_out} and of checkpoint.every {job.checkpoint.every}: "
                "only then a trial can be judged, and others go on from there"
            )
        if every >= steps:
            mistakes.append(f"pbt.every_steps {every} must be below training.steps {steps}: else no trial changes")
    return mistakes


def _done_by_no_trial(job: Job) -> Iterator[str]:
    """Sections that a run obeys and a trial would not."""
    wanted = {
        "validation: null": job.validation,
        "tracking: {}": job.tracking != Tracking(),
        "webhooks: []": job.webhooks,
        "hub: null": job.hub,
    }
    if given := [words for words, is_wanted in wanted.items() if is_wanted]:
        yield f"job: trials make no videos and tell no services; give in set {', '.join(given)}, and train the best job with them"
