"""Every setting of a job: one YAML file, one class a section; unknown keys are mistakes and all mistakes are told at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from ray_s2v.schema import FRAMES_PER_LATENT, MIN_SIDE, SIZE_MULTIPLE, ConfigError

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
MAX_FRAMES = 30 * FRAMES_PER_LATENT  # the reference picture's rotary position follows


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
        numbers = str(self.resolution).lower().split("x")
        if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
            raise ValueError(f"resolution {self.resolution!r} must read like 832x480 where resolution_type is exact")
        width, height = map(int, numbers)
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
        if self.text + self.audio + self.both > 1:
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
    worker_cpus: Amount = 1.0
    worker_gpus: Amount = 1.0
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


# Names that other trainers use for a thing that is called or computed otherwise here.
HINTS = {
    "accumulation": "follows from global_batch / (workers * batch_size)",
    "gradient_accumulation_steps": "follows from global_batch / (workers * batch_size)",
    "train_batch_size": "here it is batch_size (of a worker) and global_batch (of a step)",
}


class _Loader(yaml.SafeLoader):
    """YAML without the trap of a key given twice, of which the last would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {', '.join(sorted(twice))}", node.start_mark)
        return super().construct_mapping(node, deep)


def load_job(path: str, overrides: Sequence[str] = ()) -> Job:
    """The job of a YAML file with `section.key=value` overrides. Raises ConfigError listing every mistake."""
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # noqa: S506 a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no readable YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: a job is a mapping of sections: {', '.join(Job.model_fields)}")
    mistakes = [message for override in overrides if (message := _override(settings, override))]
    try:
        job = Job.model_validate(settings)
    except ValidationError as error:
        mistakes += [_explained(detail) for detail in error.errors()]
    if mistakes:
        raise ConfigError("\n".join([f"{path}: {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}", *(f"  {m}" for m in mistakes)]))
    return job


def dump_job(job: Job) -> str:
    """The job as YAML, every default written out."""
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _override(settings: dict[str, Any], override: str) -> str | None:
    """Sets `section.key=value` in place; returns what is wrong with it, if anything."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        return f"{override!r}: an override reads section.key=value"
    try:
        value = yaml.load(text, _Loader)  # noqa: S506
    except yaml.YAMLError:
        return f"{override!r}: the value is no readable YAML"
    *parents, last = key.split(".")
    node: Any = settings
    for part in parents:
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                return f"{key}: there is no item {part}; items 0 to {len(node) - 1} are there"
            node = node[int(part)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            return f"{key}: {part} stands below a value, not a section"
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        return f"{key}: {last} stands below a value, not a section"
    return None


def _explained(detail: ErrorDetails) -> str:
    """One mistake in words: where, what it was, what would be right."""
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        name = str(detail["loc"][-1])
        known = _keys_at(detail["loc"][:-1])
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = HINTS.get(name) or (f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}")
        return f"{where}: unknown; {hint}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    message = detail["msg"].removeprefix("Value error, ")
    given = detail["input"]
    return f"{where}: {message}" + ("" if isinstance(given, dict | list) else f" (it is {given!r})")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at this place knows."""
    section: Any = Job
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
