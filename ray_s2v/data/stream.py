"""The Ray Data graph: rows of the plan, in their order, through the store or decoders and encoders to the training workers.

    1 plan             a task               steps -> rows, each a block of its own: a unit of work that keeps its place;
                                            before them, the rows of the held-out clips
    2 fetch            CPU tasks            row -> features from the store; what it lacks -> pixels, waveform, words
    3 encode video     actors               pixels -> latents; first, because pixels are by far the largest column
    4 encode speech    actors               waveform -> speech
    5 encode text      actors               words -> text

Stages 3 to 5 are there only where the store lacks something. They run side by side on different rows. With one row a block,
preserved order and n workers, worker r gets the rows r, r + n, r + 2n, ...; `worker_rows` checks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from ray_s2v.config.job import Encoder, Job
from ray_s2v.data.features import Features
from ray_s2v.data.fetch import fetched
from ray_s2v.data.held_out import shared_out
from ray_s2v.data.plan import Plan
from ray_s2v.data.rows import Row, to_row, to_table
from ray_s2v.data.share import filled_up, only_fills, slots_with_filling
from ray_s2v.data.stages import EncodeSpeech, EncodeText, EncodeVideo, Stage
from ray_s2v.schema import PlanRow

SPAN = 32  # steps that one planning task makes the rows of
PLAN_CPUS = 0.01


def plan_dataset(plan: Plan, held_out: Sequence[PlanRow], steps: range, job: Job, features: Features, workers: int) -> ray.data.Dataset:
    """The lazy dataset of the feature rows of held-out clips, then of `steps`, in the plan's order and filled up for so many workers, each
    a table of one row as rows.py makes it.
    """
    dataset = fetch(planned(plan, shared_out(held_out, workers), steps, workers), job, features)
    if not features.streams:
        return dataset
    encoders = job.encoders
    dataset = encode(dataset, EncodeVideo, encoders.vae, features.dtype, path=encoders.vae.path)
    dataset = encode(dataset, EncodeSpeech, encoders.speech, features.dtype, path=encoders.speech.path)
    return encode(dataset, EncodeText, encoders.text, features.dtype, path=encoders.text.path, tokenizer=encoders.text.tokenizer)


def planned(plan: Plan, held_out: Sequence[PlanRow], steps: range, workers: int = 1) -> ray.data.Dataset:
    """The rows of held-out clips, then the plan's.

    They are made as they are wanted: as items, each of its own block, they would cost a millisecond at every start.
    """
    # Any row is larger than this, so each leaves a stage as a block of its own.
    ray.data.DataContext.get_current().target_max_block_size = 1
    spans = [{"first": -1, "end": -1}] if held_out else []
    spans += [{"first": first, "end": min(first + SPAN, steps.stop)} for first in range(steps.start, steps.stop, SPAN)]
    dataset = ray.data.from_items(spans, override_num_blocks=len(spans))
    return dataset.flat_map(
        partial(_rows, ray.put((plan, held_out)), workers), num_cpus=PLAN_CPUS, compute=ray.data.TaskPoolStrategy(size=1)
    )


def fetch(dataset: ray.data.Dataset, job: Job, features: Features) -> ray.data.Dataset:
    """The rows with their features, or with what the encoders make them of."""
    return each(dataset, partial(_fetched, features), num_cpus=job.data.decode_cpus)


def _fetched(features: Features, table: pa.Table) -> pa.Table:
    row = to_row(table)
    return table if only_fills(row) else to_table(fetched(row, features))


def _rows(known: ray.ObjectRef, workers: int, span: dict[str, int]) -> Iterable[PlanRow]:
    plan, held_out = ray.get(known)
    return held_out if span["first"] < 0 else filled_up(plan.rows(span["first"], span["end"]), plan.slots, workers)


def each(dataset: ray.data.Dataset, stage: Any, **options: Any) -> ray.data.Dataset:
    """The dataset after a function, or a class for actors, of tables of one row."""
    return dataset.map_batches(stage, batch_size=1, batch_format="pyarrow", zero_copy_batch=True, **options)


def encode(dataset: ray.data.Dataset, stage: type[Stage], settings: Encoder, dtype: str, most: int = 0, **places: str) -> ray.data.Dataset:
    """The dataset after an encoder in as many actors as the settings say, or up to `most` if that is more."""
    pool = settings.actors
    return each(
        dataset,
        stage,
        fn_constructor_kwargs={"dtype": dtype, **places},
        compute=ray.data.ActorPoolStrategy(min_size=pool.min, max_size=max(pool.max, most)),
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
        **({"accelerator_type": settings.accelerator_type} if settings.accelerator_type else {}),
    )


def worker_rows(tables: Iterable[pa.Table], steps: range, slots: int, worker: int, num_workers: int) -> Iterator[Row]:
    """The rows of one worker through `steps`, each checked to be the one that the plan's arithmetic gives it, and none missing.

    slots: of a step; they are filled up for the workers.
    """
    slots = slots_with_filling(slots, num_workers)
    position = steps.start * slots + worker
    for table in tables:
        row = to_row(table)
        got = row["step"] * slots + row["slot"]
        assert got == position, f"worker {worker} of {num_workers} was given row {got} of the plan instead of {position}"
        yield row
        position += num_workers
    assert position == steps.stop * slots + worker, f"worker {worker} of {num_workers} was given no row {position} of the plan"
