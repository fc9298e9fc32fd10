"""Every setting of a job, one class a section. What a file of them may look like is in job_file.py."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ray_s2v.schema import FRAMES_PER_LATENT, MIN_SIDE, SIZE_MULTIPLE

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
MAX_FRAMES = 30 * FRAMES_PER_LATENT  # the reference picture's rotary position follows


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        if isinstance(value, bool):  # pydantic would take yes for 1
            raise ValueError("true and false (yes and no) are the value of no setting")
        return value


class Run(Section):
    """Where a run's files go; every machine of the cluster must see this folder."""

    folder: str
    seed: Annotated[int, Field(ge=0)] = 42


class Demo(Section):
    """Clips and tiny weights made by code before the run, for trying things out."""

    folder: str
    seed: Annotated[int, Field(ge=0)] = 0


class Source(Section):
    """A folder of clips (searched recursively) with a caption beside each: x.mp4 and x.txt."""

    path: str
    resolution: str | int | float = "832x480"
    resolution_type: Literal["exact", "pixel_area", "area", "pixel"] = "exact"
    aspect_rounding: Annotated[int, Field(ge=0, le=4)] = 2
    num_frames: int = 80

    @field_validator("resolution", mode="before")
    @classmethod
    def _one_number_or_text(cls, value: Any) -> Any:
        if not isinstance(value, str | int | float) or value in (math.inf, -math.inf) or value != value:
            raise ValueError("must read like 832x480, or be a number")
        return value

    @field_validator("num_frames")
    @classmethod
    def _whole_latents(cls, value: int) -> int:
        if value % FRAMES_PER_LATENT or not 0 < value <= MAX_FRAMES:
            nearest = min(max(round(value / FRAMES_PER_LATENT), 1) * FRAMES_PER_LATENT, MAX_FRAMES)
            raise ValueError(f"must be a multiple of {FRAMES_PER_LATENT} up to {MAX_FRAMES}, 80 officially; nearest is {nearest}")
        return value

    @model_validator(mode="after")
    def _resolution_fits_its_type(self) -> Source:
        if self.resolution_type == "exact":
            self.exact_size()
        elif isinstance(self.resolution, str) or self.resolution <= 0:
            raise ValueError(f"resolution {self.resolution!r} must be a positive number where resolution_type is {self.resolution_type}")
        return self

    def exact_size(self) -> tuple[int, int]:
        """Width and height of `resolution: 832x480`."""
        numbers = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", str(self.resolution).lower())
        if not numbers:
            raise ValueError(f"resolution {self.resolution!r} must read like 832x480 where resolution_type is exact")
        width, height = map(int, numbers.groups())
        if width % SIZE_MULTIPLE or height % SIZE_MULTIPLE or min(width, height) < MIN_SIDE:
            raise ValueError(f"resolution {self.resolution}: both sides must be multiples of {SIZE_MULTIPLE}, at least {MIN_SIDE}")
        return width, height


class Data(Section):
    sources: Annotated[list[Source], Field(min_length=1)]
    max_rejected: Share = 0.01
    decode_cpus: Annotated[float, Field(gt=0)] = 1.0  # that Ray reserves for each clip being decoded


class Encoder(Section):
    """A frozen network and the actors that run it. Each actor reserves `cpus` and `gpus`; both may be fractions."""

    path: str  # a folder, or owner/repository or owner/repository/folder of the hub
    actors: Count = 1
    cpus: Amount = 1.0
    gpus: Amount = 0.0


class TextEncoder(Encoder):
    tokenizer: str  # likewise


class Encoders(Section):
    vae: Encoder
    speech: Encoder
    text: TextEncoder


class Model(Section):
    path: str  # as an encoder's; official, repackaged or diffusers layout
    dtype: Literal["bf16", "fp32"] = "bf16"
    checkpointing: Literal["full", "none"] = "full"


class Lora(Section):
    rank: Count = 16
    alpha: Annotated[float, Field(gt=0)] | None = None  # the rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[str], Field(min_length=1)] = ["to_q", "to_k", "to_v", "to_out.0"]
    layers: Literal["all", "blocks", "audio_injector"] = "all"


class Flow(Section):
    shift: Annotated[float, Field(gt=0)] = 3.0


class Dropout(Section):
    """Shares of samples that train without text, without sound, and without both, for guidance."""

    text: Share = 0.05
    audio: Share = 0.05
    both: Share = 0.10

    @model_validator(mode="after")
    def _shares(self) -> Dropout:
        if self.text + self.audio + self.both > 1 + 1e-9:
            raise ValueError("text, audio and both are shares of all samples: together at most 1")
        return self


class Zero(Section):
    stage: Literal[0, 1, 2, 3] = 2


class Training(Section):
    steps: Count | None = None
    epochs: Count | None = None
    global_batch: Count  # clips of one optimizer step, whatever the number of workers
    batch_size: Count = 1  # clips that one worker takes at a time; accumulation follows
    workers: Count = 1
    worker_cpus: Annotated[float, Field(gt=0)] = 1.0
    worker_gpus: Share = 1.0  # the rest of its GPU is for encoders
    max_failures: Annotated[int, Field(ge=0)] = 3  # of workers, before the run gives up
    continuation: Share = 0.5
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    weight_decay: Amount = 0.01
    clip_grad_norm: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _arithmetic(self) -> Training:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of steps and epochs")
        if self.workers > 1 and 0 < self.worker_gpus <= 0.5:
            raise ValueError(f"worker_gpus {self.worker_gpus:g} would put two workers on one GPU: give 0, or more than 0.5")
        if self.global_batch % (self.workers * self.batch_size):
            raise ValueError(
                f"global_batch {self.global_batch} must be a multiple of workers * batch_size = {self.workers} * {self.batch_size}"
            )
        return self

    @property
    def accumulation(self) -> int:
        """Micro-batches of a worker in one optimizer step."""
        return self.global_batch // (self.workers * self.batch_size)


class Checkpoint(Section):
    every: Count = 100  # steps
    keep: Count = 3
    resume: str = "latest"  # latest | none | the folder of a checkpoint


class Job(Section):
    run: Run
    demo: Demo | None = None
    data: Data
    encoders: Encoders
    model: Model
    lora: Lora = Lora()
    flow: Flow = Flow()
    dropout: Dropout = Dropout()
    training: Training
    zero: Zero = Zero()
    checkpoint: Checkpoint = Checkpoint()
