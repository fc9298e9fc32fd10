"""Sources to usable clips: listed here, examined on all CPUs of the cluster as far as nothing is known of them, and judged here."""

from __future__ import annotations

import csv
import gc
import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import ray.data

from ray_s2v.config.job import Data
from ray_s2v.config.source import Source
from ray_s2v.data.facts import Facts, examine
from ray_s2v.data.found import Found, Rejected, shown
from ray_s2v.data.judge import judged, without_copies
from ray_s2v.data.manifest import Row, found_table, founds_of, read_manifest, rows_of, table_of, write_manifest
from ray_s2v.data.sources import find
from ray_s2v.media.probe import mismatch_s
from ray_s2v.schema import Clip, DataError

BATCH = 8  # clips that a call examines
TASKS = 1024  # calls that are tasks of their own; of more clips a task makes several calls, at most as many as take some seconds
MOST_BATCHES = 8
WRITE_EVERY_S = 30.0  # what was examined since is lost with the driver
REPORTED_MISMATCH_S = 0.2  # of sound and pictures; well below what is rejected
LISTED = 20  # files or reasons in an error


@dataclass(frozen=True)
class Discovery:
    """All clips of all sources, in an order that depends on the files alone."""

    clips: list[Clip]
    held_out: list[Clip]  # of sources that are is_eval
    rejected: list[Rejected]
    num_rejected: dict[str, int]  # by source
    num_reused: int  # clips, usable or not, of which everything was known
    num_mismatched: int  # clips whose sound and pictures begin or end more than 0.2 s apart
    worst_mismatch: str  # the id of the clip that is furthest apart, empty for none
    worst_mismatch_s: float


@dataclass
class _Listing:
    """A source as it lies there now, and what is known of its clips by their names."""

    source: Source
    found: list[Found]
    rejected: list[Rejected]
    facts: dict[str, Facts]
    is_saved: bool  # whether the manifest holds this and nothing else

    @staticmethod
    def of(source: Source, store: str, note: Callable[[str], None]) -> _Listing:
        found, rejected = find(source)
        if not found and not rejected:
            raise DataError(f"data.sources: {source.path}: no clips in it")
        known = read_manifest(store, source.called(), note)
        facts = {}
        for clip in found:
            before = known.get(clip.name)
            if before and before[0].parts == clip.parts:
                facts[clip.name] = before[1]
        return _Listing(source, found, rejected, facts, is_saved=len(facts) == len(known))

    def save(self, store: str) -> None:
        if not self.is_saved:
            rows = [(clip, self.facts[clip.name]) for clip in self.found if clip.name in self.facts]
            write_manifest(store, self.source.called(), rows)
            self.is_saved = True


def discover(data: Data, store: str, note: Callable[[str], None]) -> Discovery:
    """Every clip of every source, usable or rejected. Ray runs only where something has to be examined.

    store: folder or URI that keeps the manifests. note: told what the user may want to know. Raises ConfigError or DataError for
    sources that cannot be listed, and DataError for files that cannot be read; what was examined until then is kept.
    """
    with _without_collecting():
        listings = [_Listing.of(source, store, note) for source in data.sources]
    num_reused = sum(len(listing.facts) for listing in listings)
    try:
        unread = _examine_rest(listings, store, data.decode_cpus)
    finally:
        for listing in listings:
            listing.save(store)
    if unread:
        raise DataError(f"{len(unread)} of {sum(len(listing.found) for listing in listings)} clips could not be read:\n{_listed(unread)}")
    with _without_collecting():
        outcomes = [(listing.source, *_judged(listing)) for listing in listings]
    mismatches = [apart for *_, every in outcomes for apart in every]
    worst_s, worst = max(mismatches, default=(0.0, ""))
    return Discovery(
        clips=[clip for source, usable, *_ in outcomes if not source.is_eval for clip in usable],
        held_out=[clip for source, usable, *_ in outcomes if source.is_eval for clip in usable],
        rejected=[clip for _, _, refused, _ in outcomes for clip in refused],
        num_rejected={source.called(): len(refused) for source, _, refused, _ in outcomes},
        num_reused=num_reused,
        num_mismatched=len(mismatches),
        worst_mismatch=worst,
        worst_mismatch_s=worst_s,
    )


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Python looks for no garbage meanwhile: of millions of records that all stay, it would take as long as making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_rejected(clips: list[Clip], rejected: list[Rejected], max_rejected: float) -> None:
    """Raises DataError if no clip is usable, or more than the allowed share was rejected."""
    listed = _listed(rejected)
    if not clips:
        raise DataError("no usable clip" + (f"; {len(rejected)} were rejected:\n{listed}" if rejected else " in any of data.sources"))
    share = len(rejected) / (len(clips) + len(rejected))
    if share > max_rejected:
        raise DataError(f"{len(rejected)} clips ({share:.1%}) were rejected, data.max_rejected is {max_rejected:.1%}:\n{listed}")


def rejected_csv(rejected: list[Rejected]) -> str:
    """The rejected clips as CSV: path, reason."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([("path", "reason"), *((r.path, r.reason) for r in rejected)])
    return file.getvalue()


def _listed(rejected: Sequence[Rejected]) -> str:
    return "\n".join(f"  {r.path}: {r.reason}" for r in rejected[:LISTED]) + ("\n  ..." if len(rejected) > LISTED else "")


def _judged(listing: _Listing) -> tuple[list[Clip], list[Rejected], list[tuple[float, str]]]:
    """The usable clips by name, the others by path, and of usable ones the seconds that sound and pictures are apart, where it is much."""
    outcomes = [judged(clip, listing.facts[clip.name], listing.source) for clip in listing.found]
    usable, copies = without_copies(outcome for outcome in outcomes if isinstance(outcome, Clip))
    refused = [*listing.rejected, *(outcome for outcome in outcomes if isinstance(outcome, Rejected)), *copies]
    start = len(listing.source.called()) + 1
    apart = []
    for clip in usable:
        facts = listing.facts[clip.clip_id[start:]]
        if clip.audio and facts.video and facts.sound and (seconds := mismatch_s(facts.video, facts.sound)) > REPORTED_MISMATCH_S:
            apart.append((seconds, clip.clip_id))
    return usable, sorted(refused, key=lambda r: (r.path, r.reason)), apart


def _examine_rest(listings: Sequence[_Listing], store: str, decode_cpus: float) -> list[Rejected]:
    """Adds the facts that are missing, and saves them from time to time. Gives the clips whose files could not be read, by path."""
    missing = [(number, clip) for number, listing in enumerate(listings) for clip in listing.found if clip.name not in listing.facts]
    unread = []
    due = time.monotonic() + WRITE_EVERY_S
    for number, (clip, facts), problem in _examined(missing, decode_cpus):
        if problem:
            unread.append(Rejected(shown(clip.video.place), problem))
            continue
        listings[number].facts[clip.name] = facts
        listings[number].is_saved = False
        if (begun := time.monotonic()) > due:
            for listing in listings:
                listing.save(store)
            now = time.monotonic()
            due = now + max(WRITE_EVERY_S, 10 * (now - begun))  # of very many clips the manifest takes long to write
    return sorted(unread, key=lambda r: r.path)


def _examined(clips: Sequence[tuple[int, Found]], decode_cpus: float) -> Iterator[tuple[int, Row, str]]:
    """Numbered clips with their facts, in no order; a text says why a clip's files could not be read."""
    if not clips:
        return
    size = BATCH * min(max(len(clips) // (BATCH * TASKS), 1), MOST_BATCHES)
    blocks = []
    for first in range(0, len(clips), size):
        numbers, founds = zip(*clips[first : first + size], strict=True)
        blocks.append(found_table(founds).append_column("source", pa.array(numbers, pa.int64())))
    dataset = ray.data.from_arrow(blocks).map_batches(_examine_batch, batch_size=BATCH, batch_format="pyarrow", num_cpus=decode_cpus)
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from zip(table["source"].to_pylist(), rows_of(table), table["problem"].to_pylist(), strict=True)


def _examine_batch(batch: pa.Table) -> pa.Table:
    """The clips of `found_table` with their facts, and `problem`, empty or why their files could not be read."""
    rows: list[Row] = []
    problems = []
    for found in founds_of(batch):
        try:
            facts, problem = examine(found), ""
        except OSError as error:  # tells of a disk or a network, not of the clip
            facts, problem = Facts(), str(error) or type(error).__name__
        rows.append((found, facts))
        problems.append(problem)
    return table_of(rows).append_column("source", batch["source"]).append_column("problem", pa.array(problems, pa.large_string()))
