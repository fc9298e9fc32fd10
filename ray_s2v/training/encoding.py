"""Filling the feature store from the driver: one kind of features after the other, each with the whole cluster to itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue

from ray_s2v.cluster.capacity import check, for_encoding
from ray_s2v.cluster.supply import growth, supply
from ray_s2v.cluster.waiting import Waiting
from ray_s2v.config.job import Job
from ray_s2v.data.encode import Wanted, fill_store
from ray_s2v.data.features import KINDS, FeatureKind, Features
from ray_s2v.data.store import remove_stale
from ray_s2v.schema import ConfigError, DataError, PlanRow, RunStopped
from ray_s2v.training.failures import first_cause
from ray_s2v.training.interrupt import until_done
from ray_s2v.training.prepare import PreparedData
from ray_s2v.training.relay import open_relay, pass_on

TICK_S = 0.5
Report = Callable[[FeatureKind, int, int], None]  # a kind, how many of it are done, whatever came of them, and of how many


@dataclass
class Outcome:
    """What came of filling the store."""

    done: dict[FeatureKind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    encoded: dict[FeatureKind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    unusable: dict[str, str] = field(default_factory=dict)  # clip id -> reason, of clips stored as such
    lost: dict[str, str] = field(default_factory=dict)  # clip id -> reason, of clips that a disk or a network did not give

    def note(self, report: Report, kind: FeatureKind, total: int, row: dict[str, Any]) -> None:
        """Takes what `fill_store` says of one thing that it encoded."""
        self.done[kind] += 1
        self.encoded[kind] += row["bytes"] > 0
        if row["error"]:
            (self.unusable if row["bytes"] else self.lost)[row["clip_id"]] = row["error"]
        report(kind, self.done[kind], total)


def run_encoding(prepared: PreparedData, wanted: Wanted, report: Report, say: Callable[[str], None]) -> Outcome:
    """Encodes all that is missing. `report` is called after each; `say` is told what is waited for.

    Raises RunStopped where Ray or a disk fails, ConfigError where the cluster is too small or an encoder cannot be loaded, DataError
    where too many clips turn out unusable, KeyboardInterrupt.
    """
    missing = {kind: wanted.missing(kind) for kind in KINDS}
    for kind, rows in missing.items():
        if rows:
            check(for_encoding(prepared.job, kind), supply(growth()))
    remove_stale(prepared.features.store)
    outcome = Outcome()
    for kind, rows in missing.items():
        if rows:
            _encode(prepared, kind, rows, partial(outcome.note, report, kind, len(rows)), say)
    clips = len({row["clip_id"] for rows in wanted.rows.values() for row in rows.values()})
    if len(outcome.unusable) > prepared.job.data.max_rejected * clips:
        listed = "\n".join(f"  {clip}: {reason}" for clip, reason in sorted(outcome.unusable.items()))
        raise DataError(f"{len(outcome.unusable)} of {clips} clips turned out unusable, more than data.max_rejected:\n{listed}")
    return outcome


def _encode(
    prepared: PreparedData,
    kind: FeatureKind,
    rows: Mapping[str, PlanRow],
    note: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
) -> None:
    records = open_relay()
    waiting = Waiting(for_encoding(prepared.job, kind), say)

    def meanwhile() -> None:
        pass_on(records, note, TICK_S)
        waiting.look()

    try:
        until_done(partial(ray.get, _fill_store.remote(prepared.job, prepared.features, kind, rows, records)), meanwhile)
        pass_on(records, note, wait_s=0)
    except RayError as error:
        raise _explained(error) from error


def _explained(error: RayError) -> Exception:
    """The user's mistake, in its own words where Ray's hold a traceback; else that encoding stopped, and why."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, ConfigError):
        return error.cause
    return RunStopped(f"encoding stopped: {first_cause(error)}. What is in the store stays; the same command goes on")


@ray.remote(num_cpus=0)
def _fill_store(job: Job, features: Features, kind: FeatureKind, rows: Mapping[str, PlanRow], records: Queue) -> None:
    """In a process of its own, whose logs are Ray's: what Ray Data's actors log there would else stand on the terminal."""
    fill_store(job, features, kind, rows, lambda row: records.actor.put_nowait.remote(row))
    records.qsize()  # answered after all that was put before, so that none of it is still on its way when this ends
