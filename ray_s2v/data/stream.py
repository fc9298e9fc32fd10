"""The Ray Data graph: rows of the plan, in their order, through decoding tasks and encoder actors to the training workers.

    1 plan             a task               steps -> rows, each a block of its own: a unit of work that keeps its place
    2 decode           CPU tasks            row -> pixels, waveform
    3 encode video     actors               pixels -> latents; first, because pixels are by far the largest column
    4 encode speech    actors               waveform -> audio
    5 encode text      actors               caption -> text

The stages run side by side on different rows. With one row a block, preserved order and n workers, worker r gets the rows
r, r + n, r + 2n, ...; `worker_rows` checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import ray

from ray_s2v.config.job import Encoder, Job
from ray_s2v.data.decode import decoded
from ray_s2v.data.plan import Plan
from ray_s2v.schema import ClipError, ConfigError, PlanRow

Rows = dict[str, Any]
SPAN = 32  # steps that one planning task makes the rows of
PLAN_CPUS = 0.01


class _Stage:
    """An encoder on blocks of one row, loaded once in its actor."""

    def __init__(self, **places: str) -> None:
        self.refusal = ""
        try:
            self.load(**places)
        except ConfigError as error:
            # Goes to the workers in the row's place: Ray Data starts an actor whose constructor fails again and again, without end.
            self.refusal = str(error)

    def __call__(self, block: Rows) -> Rows:
        row = {name: column[0] for name, column in block.items()}
        if self.refusal or "refusal" in row:
            row = {"step": row["step"], "slot": row["slot"], "refusal": row.get("refusal", self.refusal)}
        else:
            row = self.encoded(row)
        return {name: [value] for name, value in row.items()}

    def load(self, **places: str) -> None:
        """Imports and loads the network: in the actor, so that no other process does."""
        raise NotImplementedError

    def encoded(self, row: Rows) -> Rows:
        raise NotImplementedError


class EncodeVideo(_Stage):
    """`pixels` and `reference_pixels` to `latents` [16, (19 +) latent_frames, h, w] and `reference` [16, 1, h, w]."""

    def load(self, path: str) -> None:  # type: ignore[override]
        from ray_s2v.encoders.vae import VideoEncoder

        self.encoder = VideoEncoder(path, _device())

    def encoded(self, row: Rows) -> Rows:
        pixels, missing, reference = (row.pop(name) for name in ("pixels", "missing_frames", "reference_pixels"))
        latents, motion = self.encoder.encode_clip(pixels, row["kind"], int(row["num_frames"]), int(missing))
        joined = [latents.cpu().numpy()] if motion is None else [motion.cpu().numpy(), latents.cpu().numpy()]
        return {**row, "latents": np.concatenate(joined, axis=1), "reference": self.encoder.encode(reference).cpu().numpy()}


class EncodeSpeech(_Stage):
    """`waveform`, whole, to `audio` [layers, audio_dim, num_frames] of the window."""

    def load(self, path: str) -> None:  # type: ignore[override]
        from ray_s2v.encoders.speech import SpeechEncoder

        self.encoder = SpeechEncoder(path, _device())

    def encoded(self, row: Rows) -> Rows:
        waveform = np.asarray(row.pop("waveform"), np.float32)
        try:
            audio = self.encoder.encode(waveform, int(row["start_frame"]), int(row["num_frames"])).cpu().numpy()
        except ClipError as reason:
            audio, row["error"] = np.zeros((*self.encoder.shape, int(row["num_frames"])), np.float32), str(reason)
        return {**row, "audio": audio}


class EncodeText(_Stage):
    """`caption` to `text` [length, text_dim]."""

    def load(self, path: str, tokenizer: str) -> None:  # type: ignore[override]
        from ray_s2v.encoders.text import TextEncoder

        self.encoder = TextEncoder(path, tokenizer, _device())

    def encoded(self, row: Rows) -> Rows:
        return {**row, "text": self.encoder.encode(str(row["caption"])).float().cpu().numpy()}


def plan_dataset(plan: Plan, steps: range, job: Job) -> ray.data.Dataset:
    """The lazy dataset of the feature rows of `steps`, in the plan's order.

    Rows are made as they are wanted: as items, each of its own block, they would cost a millisecond at every start.
    """
    # Any row is larger than this, so each leaves a stage as a block of its own.
    ray.data.DataContext.get_current().target_max_block_size = 1
    spans = [{"first": first, "end": min(first + SPAN, steps.stop)} for first in range(steps.start, steps.stop, SPAN)]
    dataset = ray.data.from_items(spans, override_num_blocks=len(spans))
    dataset = dataset.flat_map(partial(_rows, ray.put(plan)), num_cpus=PLAN_CPUS, concurrency=1)
    dataset = dataset.map(decoded, num_cpus=job.data.decode_cpus)
    dataset = _encode(dataset, EncodeVideo, job.encoders.vae, path=job.encoders.vae.path)
    dataset = _encode(dataset, EncodeSpeech, job.encoders.speech, path=job.encoders.speech.path)
    return _encode(dataset, EncodeText, job.encoders.text, path=job.encoders.text.path, tokenizer=job.encoders.text.tokenizer)


def _rows(plan: ray.ObjectRef, span: dict[str, int]) -> Iterator[PlanRow]:
    return ray.get(plan).rows(span["first"], span["end"])


def _encode(dataset: ray.data.Dataset, stage: Callable[..., _Stage], settings: Encoder, **arguments: str) -> ray.data.Dataset:
    return dataset.map_batches(
        stage,
        batch_size=1,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=settings.actors),
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
    )


def worker_rows(rows: Iterable[Rows], steps: range, slots: int, worker: int, num_workers: int) -> Iterator[Rows]:
    """The rows of one worker through `steps`, each checked to be the one that the plan's arithmetic gives it, and none missing."""
    position = steps.start * slots + worker
    for row in rows:
        got = int(row["step"]) * slots + int(row["slot"])
        assert got == position, f"worker {worker} of {num_workers} was given row {got} of the plan instead of {position}"
        yield row
        position += num_workers
    assert position == steps.stop * slots + worker, f"worker {worker} of {num_workers} was given no row {position} of the plan"


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
