"""Filling the feature store: what a job's plan will want and the store lacks, each thing once, one encoder after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from ray_s2v.config.job import Encoder, Job
from ray_s2v.data.decode import decoded_sound, decoded_video
from ray_s2v.data.features import KINDS, FeatureKind, Features
from ray_s2v.data.fetch import sound_chunks
from ray_s2v.data.rows import Row, to_row, to_table
from ray_s2v.data.stages import EncodeText, EncodeVideo, EncodeWholeSpeech, Stage
from ray_s2v.data.store import save, stored_keys
from ray_s2v.data.stream import each, encode
from ray_s2v.schema import ConfigError, PlanRow

SAVE_CPUS = 0.1
STAGES: dict[FeatureKind, type[Stage]] = {"video": EncodeVideo, "speech": EncodeWholeSpeech, "text": EncodeText}
KEPT = {"video": ("latents", "reference", "pose_latents", "video_error"), "text": ("text",)}


@dataclass(frozen=True)
class Wanted:
    """What a run will ask the store for."""

    rows: dict[FeatureKind, dict[str, PlanRow]]  # by key, in the order of first use
    there: dict[FeatureKind, dict[str, int]]  # the bytes of what the store holds of it

    def missing(self, kind: FeatureKind) -> dict[str, PlanRow]:
        return {key: row for key, row in self.rows[kind].items() if key not in self.there[kind]}


def wanted_features(rows: Iterable[PlanRow], features: Features) -> Wanted:
    """The features of rows, and which of them the store holds."""
    wanted: dict[FeatureKind, dict[str, PlanRow]] = {kind: {} for kind in KINDS}
    for row in rows:
        for kind in KINDS:
            wanted[kind].setdefault(features.key(kind, row), row)
    stored = {kind: stored_keys(features.store, kind) for kind in KINDS}
    return Wanted(wanted, {kind: {key: stored[kind][key] for key in wanted[kind] if key in stored[kind]} for kind in KINDS})


def lacking_features(rows: Iterable[PlanRow], features: Features) -> Iterator[FeatureKind]:
    """The kind of each feature that rows will want and the store lacks, each once."""
    seen: dict[FeatureKind, set[str]] = {kind: set(stored_keys(features.store, kind)) for kind in KINDS}
    for row in rows:
        for kind in KINDS:
            if (key := features.key(kind, row)) not in seen[kind]:
                seen[kind].add(key)
                yield kind


def fill_store(
    job: Job, features: Features, kind: FeatureKind, missing: Mapping[str, PlanRow], done: Callable[[dict[str, Any]], None]
) -> None:
    """Encodes what is missing of one kind and puts it into the store. `done` gets, for each, its key, clip, bytes and error.

    A clip that cannot be decoded is stored with its reason; one that a disk or a network did not give is not stored: 0 bytes.
    Raises ConfigError where the encoder cannot be loaded.
    """
    settings = {"video": job.encoders.vae, "speech": job.encoders.speech, "text": job.encoders.text}[kind]
    places = {"path": settings.path}
    if kind == "text":
        places["tokenizer"] = job.encoders.text.tokenizer
    ray.data.DataContext.get_current().target_max_block_size = 1
    dataset = ray.data.from_items([{"key": key, **row} for key, row in missing.items()])
    dataset = each(dataset, partial(_decoded, kind), num_cpus=job.data.decode_cpus)
    dataset = encode(dataset, STAGES[kind], settings, features.dtype, most=room_for(settings, ray.nodes()), **places)
    dataset = each(dataset, partial(_saved, features.store, kind), num_cpus=SAVE_CPUS)
    for row in dataset.iter_rows():
        if "refusal" in row:
            raise ConfigError(row["refusal"])
        done(row)


def room_for(settings: Encoder, nodes: Iterable[dict[str, Any]]) -> int:
    """Actors of an encoder that the GPUs of its kind have room for: while the store is filled nothing else uses them."""
    if not settings.gpus:
        return 0
    there = [node["Resources"] for node in nodes if node["Alive"]]
    its = [node for node in there if not settings.accelerator_type or f"accelerator_type:{settings.accelerator_type}" in node]
    return sum(int(node.get("GPU", 0)) * int(1 / settings.gpus + 1e-6) for node in its)


def _decoded(kind: FeatureKind, table: pa.Table) -> pa.Table:
    row = to_row(table)
    found = {"text": lambda row: {"words": row["caption"]}, "speech": decoded_sound, "video": decoded_video}[kind](row)
    return to_table({**row, **found})


def _saved(store: str, kind: FeatureKind, table: pa.Table) -> pa.Table:
    row: Row = to_row(table)
    if "refusal" in row:
        return pa.table({"refusal": [row["refusal"]]})
    error = row.get(f"{kind}_error", "")
    if row.get(f"{kind}_lost"):
        return _outcome(row, 0, error)
    if kind == "speech":
        kept = sound_chunks(row["speech"], row["speech_error"])
    else:
        kept = [{name: row[name] for name in KEPT[kind] if name in row}]
    return _outcome(row, save(store, kind, row["key"], kept), error)


def _outcome(row: Row, size: int, error: str) -> pa.Table:
    return pa.table({"key": [row["key"]], "clip_id": [row["clip_id"]], "bytes": [size], "error": [error]})
