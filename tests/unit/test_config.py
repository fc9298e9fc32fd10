"""The sections of a job: their defaults, what each setting takes, and the rules between settings."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ray_s2v.config.job import HeldOut, Job, Pool
from ray_s2v.job_file import dump_job, load_job
from tests.jobs import SETTINGS, SHIPPED, changed, load, mistakes
from tests.spawn.zero_runs import tiny_job


def test_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    job = load(tmp_path, SETTINGS)
    assert (job.run.seed, job.demo, job.flow.shift, job.training.continuation) == (42, None, 3, 0.5)
    assert (job.data.max_rejected, job.data.features, job.data.feature_dtype, job.data.store) == (0.01, "auto", "fp16", "")
    assert (job.dropout.text, job.dropout.audio, job.dropout.both) == (0.05, 0.05, 0.1)
    assert (job.training.learning_rate, job.training.warmup_steps, job.training.clip_grad_norm) == (1e-4, 100, 1.0)
    assert (job.training.batch_size, job.training.worker_gpus, job.training.accelerator_type) == (1, 1, None)
    assert (job.lora.rank, job.lora.alpha, job.lora.dropout, job.lora.targets) == (16, None, 0, ["to_q", "to_k", "to_v", "to_out.0"])
    assert (job.lora.layers, job.model.base_precision, job.model.checkpointing, job.zero.stage) == ("all", "bf16", "auto", 2)
    assert (job.checkpoint.every, job.checkpoint.keep, job.checkpoint.resume) == (50, 3, "latest")
    assert (job.checkpoint.on_failure, job.checkpoint.copy_to) == ("stop", None)
    assert job.training.accumulation(2) == 4


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_job_loads(file: Path) -> None:
    assert isinstance(load_job(str(file)), Job)


def test_there_are_shipped_jobs() -> None:
    assert SHIPPED


def test_job_is_frozen(tmp_path: Path) -> None:
    job = load(tmp_path, SETTINGS)
    for section, name in ((job, "run"), (job.run, "seed"), (job.data.sources[0], "path"), (job.encoders.text, "tokenizer")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, getattr(section, name))


@pytest.mark.parametrize(
    "key",
    [
        "training.learning_rate",
        "training.weight_decay",
        "training.clip_grad_norm",
        "training.worker_cpus",
        "flow.shift",
        "lora.alpha",
        "encoders.vae.cpus",
        "encoders.text.gpus",
        "data.decode_cpus",
    ],
)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_amounts_are_numbers_not_below_zero(tmp_path: Path, key: str, value: float) -> None:
    (line,) = mistakes(tmp_path, changed({key: value}))
    assert line.startswith(f"{key}: ")


@pytest.mark.parametrize(
    "key",
    ["training.steps", "training.workers", "training.global_batch", "lora.rank", "checkpoint.every", "encoders.text.actors.max"],
)
@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True])
def test_counts_are_whole_and_positive(tmp_path: Path, key: str, value: Any) -> None:
    (line,) = mistakes(tmp_path, changed({key: value}))
    assert line.startswith(f"{key}: ")


@pytest.mark.parametrize("key", ["data.max_rejected", "training.worker_gpus", "training.continuation", "encoders.vae.gpus"])
def test_shares_are_at_most_one(tmp_path: Path, key: str) -> None:
    load(tmp_path, changed({key: 1}))
    (line,) = mistakes(tmp_path, changed({key: 1.25}))
    assert line == f"{key}: must be less than or equal to 1 (it is 1.25)"


@pytest.mark.parametrize(
    "key",
    [
        "run.folder",
        "demo.folder",
        "data.sources.0.path",
        "encoders.vae.path",
        "encoders.text.tokenizer",
        "encoders.speech.accelerator_type",
        "model.path",
        "lora.targets.0",
        "training.accelerator_type",
        "checkpoint.resume",
    ],
)
def test_empty_text_is_no_place(tmp_path: Path, key: str) -> None:
    assert mistakes(tmp_path, changed({"lora.targets": ["to_q"], key: ""})) == [f"{key}: must not be empty"]


@pytest.mark.parametrize("features", ["auto", "store", "stream"])
def test_where_features_come_from(tmp_path: Path, features: str) -> None:
    data = load(tmp_path, changed({"data.features": features, "data.store": "s3://bucket/features"})).data
    assert (data.features, data.store) == (features, "s3://bucket/features")


@pytest.mark.parametrize(
    ("written", "pool"),
    [
        (1, (1, 1)),
        (3, (3, 3)),
        ({"max": 4}, (1, 4)),
        ({"min": 2, "max": 4}, (2, 4)),
        ({"min": 2, "max": 2}, (2, 2)),
    ],
)
def test_actors_are_a_number_or_a_least_and_a_most(tmp_path: Path, written: Any, pool: tuple[int, int]) -> None:
    encoders = load(tmp_path, changed({"encoders.vae.actors": written})).encoders
    assert (encoders.vae.actors, encoders.speech.actors) == (Pool(min=pool[0], max=pool[1]), Pool(min=1, max=1))


@pytest.mark.parametrize("written", [0, -1, 1.5, "many", "", None, [1], [{"max": 1}]])
def test_actors_that_are_neither_are_one_mistake(tmp_path: Path, written: Any) -> None:
    (line,) = mistakes(tmp_path, changed({"encoders.vae.actors": written}))
    assert line.startswith("encoders.vae.actors: must be a number, at least 1, or the least and the most, such as {min: 1, max: 4}")


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ({"min": 3, "max": 2}, ["encoders.vae.actors: min 3 must not be above max 2"]),
        ({"min": 2}, ["encoders.vae.actors.max: missing"]),
        ({"min": 0, "max": 2}, ["encoders.vae.actors.min: must be greater than or equal to 1 (it is 0)"]),
        ({"max": 2, "mim": 1}, ["encoders.vae.actors.mim: unknown; did you mean min?"]),
    ],
)
def test_least_and_most_that_are_wrong(tmp_path: Path, written: Any, lines: list[str]) -> None:
    assert mistakes(tmp_path, changed({"encoders.vae.actors": written})) == lines


def test_kind_of_node_without_a_gpu_of_it(tmp_path: Path) -> None:
    job = load(tmp_path, changed({"encoders.vae.accelerator_type": "L40S", "training.accelerator_type": "H100", "training.worker_gpus": 0}))
    assert (job.encoders.vae.accelerator_type, job.training.accelerator_type) == ("L40S", "H100")


@pytest.mark.parametrize("changes", [{"training.epochs": 2}, {"training.steps": ...}, {"training.steps": None}])
def test_one_of_steps_and_epochs(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert mistakes(tmp_path, changed(changes)) == ["training: give one of steps and epochs"]


@pytest.mark.parametrize(
    ("workers", "worker_gpus", "fits"), [(2, 0.5, False), (2, 0.2, False), (2, 0.6, True), (2, 0, True), (1, 0.5, True)]
)
def test_two_workers_do_not_share_a_gpu(tmp_path: Path, workers: int, worker_gpus: float, fits: bool) -> None:
    content = changed({"training.workers": workers, "training.worker_gpus": worker_gpus})
    if fits:
        assert load(tmp_path, content).training.worker_gpus == worker_gpus
    else:
        message = f"training: worker_gpus {worker_gpus:g} would put two workers on one GPU: give 0, or more than 0.5"
        assert mistakes(tmp_path, content) == [message]


@given(*[st.integers(min_value=1, max_value=40)] * 3)
@settings(deadline=None, database=None, derandomize=True, max_examples=300)
def test_every_worker_has_clips_of_each_step(global_batch: int, workers: int, batch_size: int) -> None:
    given_settings = changed({"training": {"steps": 1, "global_batch": global_batch, "workers": workers, "batch_size": batch_size}})
    if global_batch >= workers * batch_size:
        training = Job.model_validate(given_settings).training
        shares = [len(range(worker, global_batch, workers)) for worker in range(workers)]
        assert min(shares) >= 1
        assert (training.accumulation(workers) - 1) * batch_size < max(shares) <= training.accumulation(workers) * batch_size
    else:
        with pytest.raises(ValidationError, match=f"global_batch {global_batch} must be at least workers"):
            Job.model_validate(given_settings)


def test_workers_are_a_number_or_a_least_and_a_most(tmp_path: Path) -> None:
    elastic = load(tmp_path, changed({"training.workers": {"min": 2, "max": 8}})).training
    assert (elastic.workers, str(elastic.workers), elastic.workers.is_elastic) == (Pool(min=2, max=8), "2 to 8", True)
    assert [elastic.accumulation(workers) for workers in (2, 3, 8)] == [4, 3, 1]
    fixed = load(tmp_path, changed({"training.workers": 2})).training
    assert (str(fixed.workers), fixed.workers.is_elastic, fixed.model_dump()["workers"]) == ("2", False, 2)
    assert elastic.model_dump()["workers"] == {"min": 2, "max": 8}
    too_many = changed({"training.workers": {"min": 2, "max": 9}})
    assert mistakes(tmp_path, too_many) == [
        "training: global_batch 8 must be at least workers * batch_size = 9 * 1, or a worker would lack clips"
    ]


def test_second_shards_want_a_fixed_number_of_workers(tmp_path: Path) -> None:
    elastic = {"training.workers": {"min": 2, "max": 4}, "zero": {"stage": 3, "hpz": 2}}
    (line,) = mistakes(tmp_path, changed(elastic))
    assert "zero.hpz 2 must divide training.workers, a fixed number (it is 2 to 4)" in line
    assert load(tmp_path, changed(elastic | {"training.workers": 4})).zero.hpz == 2


def test_rules_of_a_section_are_all_told(tmp_path: Path) -> None:
    wrong = {"training.epochs": 2, "training.worker_gpus": 0.5, "training.global_batch": 1}
    assert mistakes(tmp_path, changed(wrong)) == [
        "training: give one of steps and epochs",
        "training: worker_gpus 0.5 would put two workers on one GPU: give 0, or more than 0.5",
        "training: global_batch 1 must be at least workers * batch_size = 2 * 1, or a worker would lack clips",
    ]


@pytest.mark.parametrize(
    ("shares", "fits"),
    [
        ((0.0, 0.0, 0.0), True),
        ((0.0, 0.0, 1.0), True),
        ((0.2, 0.3, 0.5), True),
        ((0.33, 0.56, 0.11), True),  # as floats they add up to a little more than 1
        ((0.34, 0.55, 0.11), True),
        ((0.5, 0.5, 0.01), False),
        ((0.4, 0.4, 0.4), False),
    ],
)
def test_guidance_dropout_shares_are_at_most_everything(tmp_path: Path, shares: tuple[float, float, float], fits: bool) -> None:
    dropout = dict(zip(("text", "audio", "both"), shares, strict=True))
    if fits:
        assert load(tmp_path, changed({"dropout": dropout})).dropout.model_dump() == dropout
    else:
        message = "dropout: text, audio and both are shares of all samples: together at most 1"
        assert mistakes(tmp_path, changed({"dropout": dropout})) == [message]


def test_sources_are_told_apart_by_name(tmp_path: Path) -> None:
    twice = changed({"data.sources": [{"path": "a/clips"}, {"path": "b/clips/"}, {"path": "c", "name": "clips"}]})
    assert mistakes(tmp_path, twice) == ["data: 3 sources are called 'clips': give each a name of its own"]
    named = changed({"data.sources": [{"path": "clips"}, {"path": "clips", "name": "squares"}]})
    assert [source.called() for source in load(tmp_path, named).data.sources] == ["clips", "squares"]


def test_something_is_left_to_train_on(tmp_path: Path) -> None:
    held_out = {"path": "faces", "is_eval": True}
    assert mistakes(tmp_path, changed({"data.sources": [held_out]})) == [
        "data: every source is held out by is_eval: nothing is left to train on"
    ]
    assert mistakes(tmp_path, changed({"data.sources": []})) == ["data.sources: must not be empty"]
    assert load(tmp_path, changed({"data.sources": [{"path": "clips"}, held_out]})).data.sources[1].is_eval


def test_a_held_out_loss_is_of_clips_that_are_held_out(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"held_out": {"every": 5}}
    assert mistakes(tmp_path, changed(asked)) == [
        "held_out is about clips that are not trained on, but no source has is_eval: give one, or leave it out"
    ]
    measured = load(tmp_path, changed({**asked, "data.sources": [{"path": "clips"}, {"path": "faces", "is_eval": True}]}))
    assert measured.held_out == HeldOut(every=5, clips=4, levels=4)
    assert load(tmp_path, dump_job(measured)) == measured
    alone = load(tmp_path, dump_job(load(tmp_path, SETTINGS)))
    assert alone.held_out == HeldOut(), "what a checkpoint holds can be read again"


def test_all_trained_sources_have_a_weight_or_none(tmp_path: Path) -> None:
    one = [{"path": "a", "weight": 2}, {"path": "b"}, {"path": "c", "is_eval": True}]
    assert mistakes(tmp_path, changed({"data.sources": one})) == ["data: give every source that is trained on a weight, or none"]
    all_of_them = [{"path": "a", "weight": 2}, {"path": "b", "weight": 0.5}, {"path": "c", "is_eval": True}]
    assert [source.weight for source in load(tmp_path, changed({"data.sources": all_of_them})).data.sources] == [2, 0.5, None]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"training": {"worker_gpus": 0}, "model": {"base_precision": "fp8"}}, "base_precision fp8 runs on GPUs"),
        ({"training": {"worker_gpus": 0}, "model": {"attention": "flash"}}, "attention flash runs on GPUs"),
        ({"training": {"worker_gpus": 0}, "offload": {"activations": True}}, "offload.activations moves what a GPU cannot hold"),
        ({"training": {"worker_gpus": 0, "gpu_memory_gib": 24}}, "gpu_memory_gib says"),
        ({"model": {"base_precision": "fp32", "attention": "cudnn"}}, "attention cudnn computes in bf16"),
        ({"model": {"base_precision": "int4"}}, "int4 rounds this model's weights too coarsely"),
        ({"zero": {"stage": 3}, "offload": {"blocks": True}}, "offload.blocks and zero.stage 3"),
        ({"zero": {"stage": 3}, "offload": {"disk_path": "/fast"}}, "offload.disk_path"),
        ({"zero": {"stage": 3}, "model": {"base_precision": "int8"}}, "zero.stage 3 shards bf16 and fp32 weights, not int8"),
        ({"zero": {"stage": 3, "hpz": 2}}, "zero.hpz 2 must divide training.workers, a fixed number (it is 1)"),
        ({"zero": {"stage": 2, "offload": "cpu"}}, "offload is about stage 3"),
        ({"offload": {"blocks": False, "blocks_per_group": 2}}, "blocks_per_group is about blocks that stream"),
        ({"offload": {"blocks": False, "disk_path": "/fast"}}, "offload.blocks is false"),
    ],
)
def test_settings_of_memory_and_precision_that_cannot_be_together(settings: dict[str, dict[str, Any]], said: str) -> None:
    job = tiny_job(2, 1).model_dump() | {"zero": {}}
    job["training"]["worker_gpus"] = 1.0
    for section, changes in settings.items():
        job[section] = job[section] | changes
    with pytest.raises(ValidationError, match=re.escape(said)):
        Job.model_validate(job)
