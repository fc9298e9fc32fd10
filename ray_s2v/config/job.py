"""A job: sources of clips, encoders, the network, LoRA, training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from ray_s2v.config.hub import Hub
from ray_s2v.config.sampling import Sampling
from ray_s2v.config.section import Amount, AutoOrBool, Count, Positive, Section, Seed, Share, Text, Whole, refuse
from ray_s2v.config.source import Source
from ray_s2v.config.tracking import Tracking, Webhook
from ray_s2v.config.validation import Validation

# How Ray names AMD's GPUs, and those of them that have the float8 of its `fnuz` kind.
AMD = "AMD-"
AMD_WITH_FLOAT8 = tuple(f"{AMD}Instinct-MI{number}" for number in (300, 308, 325))


class Run(Section):
    """Where a run's files go; every machine of the cluster must see this folder."""

    folder: Text
    seed: Seed = 42


class Demo(Section):
    """Clips and tiny weights made by code before the run, for trying things out."""

    folder: Text
    seed: Seed = 0


class Data(Section):
    sources: Annotated[list[Source], Field(min_length=1)]
    features: Literal["auto", "store", "stream"] = "auto"  # what is in the store and the rest encoded; the store alone; all encoded
    store: str = ""  # folder or URI of what `encode` gave and of the manifests; of the run unless it is given
    feature_dtype: Literal["fp16", "fp32"] = "fp16"  # of latents and sound, in the store and on their way; text as its encoder gives it
    max_rejected: Share = 0.01
    decode_cpus: Positive = 0.5  # that Ray reserves for each clip being decoded: another fills the core while one is handed over

    @model_validator(mode="after")
    def _sources_agree(self) -> Data:
        refuse(self._wrong_sources())
        return self

    def _wrong_sources(self) -> Iterator[str]:
        for name, count in Counter(source.called() for source in self.sources).items():
            if count > 1:
                yield f"{count} sources are called {name!r}: give each a name of its own"
        trained = [source for source in self.sources if not source.is_eval]
        if not trained:
            yield "every source is held out by is_eval: nothing is left to train on"
        if len({source.weight is None for source in trained}) > 1:
            yield "give every source that is trained on a weight, or none"


class Pool(Section):
    """Of actors or workers, as there is room for them: the least and the most. A plain number is both."""

    min: Count = 1
    max: Count

    @model_validator(mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        if isinstance(value, dict | Pool):
            return value
        if not isinstance(value, int) or value < 1:
            raise ValueError("must be a number, at least 1, or the least and the most, such as {min: 1, max: 4}")
        return {"min": value, "max": value}

    @model_validator(mode="after")
    def _in_order(self) -> Pool:
        refuse([f"min {self.min} must not be above max {self.max}"] if self.min > self.max else [])
        return self

    @model_serializer
    def _as_written(self) -> int | dict[str, int]:
        return {"min": self.min, "max": self.max} if self.is_elastic else self.max

    @property
    def is_elastic(self) -> bool:
        return self.min < self.max

    def __str__(self) -> str:
        return f"{self.min} to {self.max}" if self.is_elastic else f"{self.max}"


class Encoder(Section):
    """A frozen network and the actors that run it. Each actor reserves `cpus` and `gpus`; both may be fractions."""

    path: Text  # a folder, or owner/repository or owner/repository/folder of the hub
    actors: Pool = Pool(min=1, max=1)
    cpus: Amount = 1.0
    gpus: Share = 0.0  # of one GPU: an actor runs on no more
    accelerator_type: Text | None = None  # of its node, even if it takes none; as Ray names it: L40S, RTX-A6000, AMD-Instinct-MI300X-OAM


class TextEncoder(Encoder):
    tokenizer: Text  # likewise


class Encoders(Section):
    vae: Encoder
    speech: Encoder
    text: TextEncoder


class Model(Section):
    path: Text  # as an encoder's; official, repackaged or diffusers layout
    base_precision: Literal["bf16", "fp32", "fp8", "int8"] = "bf16"  # of the frozen weights; products are bf16, or fp32, or fp8
    attention: Literal["auto", "cudnn", "flash", "sdpa"] = "auto"
    checkpointing: Literal["auto", "selective", "full", "none"] = "auto"
    compile: AutoOrBool = "auto"  # on GPUs
    feed_forward_chunks: Count = 1  # pieces of the tokens that the feed-forward takes one after the other

    @field_validator("base_precision", mode="before")
    @classmethod
    def _eight_bits_at_least(cls, value: Any) -> Any:
        if value in ("nf4", "int4", "fp4"):
            raise ValueError(f"must be bf16, fp32, fp8 or int8: {value} rounds this model's weights too coarsely")
        return value


class Offload(Section):
    """What lies in the host's memory instead of the GPU's, and streams in one group of blocks ahead of its use."""

    blocks: AutoOrBool = "auto"  # frozen weights of the blocks; auto: where they do not fit
    blocks_per_group: Count = 1
    disk_path: str = ""  # a folder on a fast disk, of every machine, to stream the weights from; none: from the host's memory
    activations: AutoOrBool = "auto"  # what the backward pass needs of the forward pass; auto: as much as does not fit


class Lora(Section):
    rank: Annotated[Count, Field(le=1024)] = 16
    alpha: Positive | None = None  # the rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: list[Text] = Field(default=["to_q", "to_k", "to_v", "to_out.0"], min_length=1)
    layers: Literal["all", "blocks", "audio_injector"] = "all"


class Route(Section):
    """Blocks that a share of each latent frame's noisy tokens, drawn anew in each step, does not go through."""

    selection_ratio: Annotated[float, Field(ge=0, lt=1)]
    start_layer_idx: int  # negative from the end
    end_layer_idx: int  # itself among them


class Tread(Section):
    routes: list[Route] = Field(default=[])


class Flow(Section):
    shift: Positive = 3.0


class Dropout(Section):
    """Shares of samples that train without text, without sound, and without both, for guidance."""

    text: Share = 0.05
    audio: Share = 0.05
    both: Share = 0.10

    @model_validator(mode="after")
    def _shares(self) -> Dropout:
        too_many = self.text + self.audio + self.both > 1 + 1e-9
        refuse(["text, audio and both are shares of all samples: together at most 1"] if too_many else [])
        return self


class Zero(Section):
    stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "cpu"] = "none"  # where stage 3 keeps its shards
    hpz: Count = 1  # GPUs of a machine that hold a second set of shards among them, for slow links between machines

    @model_validator(mode="after")
    def _of_stage_3(self) -> Zero:
        given = [name for name, is_given in (("offload", self.offload != "none"), ("hpz", self.hpz > 1)) if is_given]
        refuse(f"{name} is about stage 3, but stage is {self.stage}" for name in given if self.stage != 3)
        return self


class Ema(Section):
    """The moving average of what is trained, which is saved beside it."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999  # what a step keeps of it
    every: Count = 1  # steps


class Training(Section):
    steps: Count | None = None
    epochs: Count | None = None
    global_batch: Count  # clips of one optimizer step, whatever the number of workers
    batch_size: Count = 1  # clips that one worker takes at a time; accumulation follows
    workers: Pool = Pool(min=1, max=1)  # of {min, max} as many as there is room for: lost ones are done without, new ones join
    resize_every_s: Positive = 60.0  # how often workers of {min, max} look whether there is room for more, for which they start again
    hang_timeout_s: Positive | None = 1800.0  # that a worker may stand still before it is ended and started again; null: for ever
    worker_cpus: Positive = 1.0
    worker_gpus: Share = 1.0  # the rest of its GPU is for encoders
    gpu_memory_gib: Positive | None = None  # that a worker may take of its GPU; its share of the whole when none is given
    accelerator_type: Text | None = None  # of the workers' nodes, as Ray names it
    host_memory_gib: Positive | None = None  # of a machine, for all its workers; what is free there when none is given
    max_failures: Whole = 3  # of workers, before the run gives up
    continuation: Share = 0.5
    learning_rate: Positive = 1e-4
    warmup_steps: Whole = 100
    weight_decay: Amount = 0.01
    clip_grad_norm: Positive = 1.0
    ema: Ema | None = None

    @model_validator(mode="after")
    def _settings_agree(self) -> Training:
        refuse(self._wrong_counts())
        return self

    def _wrong_counts(self) -> Iterator[str]:
        if (self.steps is None) == (self.epochs is None):
            yield "give one of steps and epochs"
        if self.workers.max > 1 and 0 < self.worker_gpus <= 0.5:
            yield f"worker_gpus {self.worker_gpus:g} would put two workers on one GPU: give 0, or more than 0.5"
        if self.global_batch < self.workers.max * self.batch_size:
            product = f"{self.workers.max} * {self.batch_size}"
            yield f"global_batch {self.global_batch} must be at least workers * batch_size = {product}, or a worker would lack clips"

    def accumulation(self, workers: int) -> int:
        """Micro-batches of each of so many workers in one optimizer step; of the last, some clips may only fill up (data/share.py)."""
        return math.ceil(math.ceil(self.global_batch / workers) / self.batch_size)


class HeldOut(Section):
    """The loss of the clips of sources with `is_eval`, at fixed noise and levels: comparable across steps, runs and numbers of workers."""

    every: Count = 250  # steps; also before the first and after the last
    clips: Count = 4  # at most, each as a first clip and, where it is long enough, as a continuation
    levels: Count = 4  # of noise; at each, a clip goes through the network with its sound, without, and with another's


class Checkpoint(Section):
    every: Count = 50  # steps; they are small, and written beside training
    keep: Count = 3
    resume: Text = "latest"  # latest | none | the folder of a checkpoint
    on_failure: Literal["stop", "continue"] = "stop"  # where one, or a copy, cannot be written; the last one always stops the run
    copy_to: Text | None = None  # a folder, s3:// or gs://, of this run alone, to copy each to


class Job(Section):
    run: Run
    demo: Demo | None = None
    data: Data
    encoders: Encoders
    model: Model
    offload: Offload = Offload()
    lora: Lora = Lora()
    tread: Tread = Tread()
    flow: Flow = Flow()
    dropout: Dropout = Dropout()
    training: Training
    zero: Zero = Zero()
    held_out: HeldOut = HeldOut()
    checkpoint: Checkpoint = Checkpoint()
    sampling: Sampling = Sampling()
    validation: Validation | None = None
    tracking: Tracking = Tracking()
    webhooks: list[Webhook] = Field(default=[])
    hub: Hub | None = None

    @model_validator(mode="after")
    def _forms_agree(self) -> Job:
        refuse([*self._wrong_forms(), *self._wrong_on_amd(), *self._wrong_validation()])
        return self

    def _wrong_forms(self) -> Iterator[str]:
        model, offload = self.model, self.offload
        if self.held_out != HeldOut() and not any(source.is_eval for source in self.data.sources):
            yield "held_out is about clips that are not trained on, but no source has is_eval: give one, or leave it out"
        if self.training.worker_gpus == 0:
            if model.attention not in ("auto", "sdpa"):
                yield f"model.attention {model.attention} runs on GPUs, but training.worker_gpus is 0: give auto"
            if offload.activations is True:
                yield "offload.activations moves what a GPU cannot hold, but training.worker_gpus is 0: give auto or false"
            for key in ("gpu_memory_gib", "host_memory_gib"):
                if getattr(self.training, key):
                    yield f"training.{key} says what may be used beside a GPU, but training.worker_gpus is 0: leave it out"
            if model.base_precision == "fp8":
                yield "model.base_precision fp8 runs on GPUs, but training.worker_gpus is 0: give bf16, fp32 or int8"
        if model.base_precision == "fp32" and model.attention in ("cudnn", "flash"):
            yield f"model.attention {model.attention} computes in bf16, but model.base_precision is fp32: give auto or sdpa"
        if offload.blocks_per_group > 1 and (offload.blocks is False or self.zero.stage == 3):
            yield "offload.blocks_per_group is about blocks that stream, but none do: leave it out, or give offload.blocks auto or true"
        if self.zero.stage == 3:
            if offload.disk_path:
                yield "offload.disk_path is where blocks stream from, which zero.stage 3 does not: leave it out"
            if offload.blocks is True:
                yield "offload.blocks and zero.stage 3 both place the frozen weights: give offload.blocks false or zero.stage 2"
            if model.base_precision in ("fp8", "int8"):
                yield f"zero.stage 3 shards bf16 and fp32 weights, not {model.base_precision}: give zero.stage 2"
            if self.training.workers.max % self.zero.hpz or (self.zero.hpz > 1 and self.training.workers.is_elastic):
                yield f"zero.hpz {self.zero.hpz} must divide training.workers, a fixed number (it is {self.training.workers})"
        if offload.disk_path and offload.blocks is False:
            yield "offload.disk_path is where blocks stream from, but offload.blocks is false: give true or auto"

    def _wrong_on_amd(self) -> Iterator[str]:
        kind = self.training.accelerator_type or ""
        if not kind.startswith(AMD) or self.training.worker_gpus == 0:
            return
        if self.model.attention == "cudnn":
            yield f"model.attention cudnn is NVIDIA's, but training.accelerator_type is {kind}: give auto, flash or sdpa"
        if self.model.base_precision == "fp8" and not kind.startswith(AMD_WITH_FLOAT8):
            yield f"model.base_precision fp8 is in MI300's format on AMD's GPUs, which {kind} has not: give int8 or bf16"

    def _wrong_validation(self) -> Iterator[str]:
        if not self.validation:
            return
        if self.validation.every % self.checkpoint.every:
            yield (
                f"validation.every {self.validation.every} must be a multiple of checkpoint.every {self.checkpoint.every}: "
                "videos are made from checkpoints"
            )
        if self.validation.weights != "online" and not self.training.ema:
            yield f"validation.weights {self.validation.weights} wants the average of the weights: give training.ema"
        if not self.validation.gpus:
            for key, value in (("base_precision", self.model.base_precision), ("attention", self.model.attention)):
                if value in ("fp8", "cudnn", "flash"):
                    yield f"model.{key} {value} runs on GPUs, but validation.gpus is 0: give a share of one"
