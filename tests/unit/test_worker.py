"""The job's settings of the network reach it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ray_s2v.config.job import Job
from ray_s2v.model.fused.functions import AS_WRITTEN
from ray_s2v.model.fused.residence import Resident, Streamed
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Bucket, ConfigError
from ray_s2v.training.network import Checkpoint, job_lora, network_for_training
from tests.spawn.zero_runs import tiny_job
from tests.tiny import tiny_network

CPU = torch.device("cpu")


def built(folder: Path, **settings: Any) -> tuple[WanS2VTransformer3DModel, list[str]]:
    """The network of a job with these settings (section__key=value), and what was said of it."""
    tiny_network().save_pretrained(folder)
    job = tiny_job(2, 1).model_dump()
    job["model"]["path"] = str(folder)
    for key, value in settings.items():
        section, name = key.split("__")
        job[section][name] = value
    notes: list[str] = []
    given = Job.model_validate(job)
    model = network_for_training(given, job_lora(given), Checkpoint(str(folder)), CPU, Bucket(64, 64, 8), notes.append)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    return model.base_model.model, notes


def test_the_fast_form_is_the_rule(tmp_path: Path) -> None:
    network, notes = built(tmp_path, model__base_precision="bf16", model__feed_forward_chunks=3)
    unit = network.blocks[0].unit
    assert unit is not None
    assert (unit.functions, unit.constants.kernel, unit.constants.feed_forward_chunks) == (AS_WRITTEN, "cpu", 3)
    assert isinstance(unit.residence, Resident)
    assert unit.keep_attention
    assert network.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert len(notes) == 1


def test_checkpointing_full_keeps_no_attention(tmp_path: Path) -> None:
    network, _ = built(tmp_path, model__checkpointing="full")
    assert not any(block.unit.keep_attention for block in network.blocks)


@pytest.mark.parametrize(("settings", "checkpoints"), [({"model__checkpointing": "none"}, False), ({"lora__dropout": 0.5}, True)])
def test_the_plain_form_where_the_fast_one_cannot(tmp_path: Path, settings: dict[str, Any], checkpoints: bool) -> None:
    network, notes = built(tmp_path, **settings)
    assert network.blocks[0].unit is None
    assert network.gradient_checkpointing == checkpoints
    assert len(notes) == 1
    assert "plain" in notes[0]


def test_eight_bits_and_streaming(tmp_path: Path) -> None:
    network, _ = built(tmp_path, model__base_precision="int8", offload__blocks=True)
    unit = network.blocks[0].unit
    assert unit is not None
    assert isinstance(unit.residence, Streamed)
    assert unit.residence.weights(0).self_attention.q.weight.dtype == torch.int8
    assert network.blocks[0].attn1.to_q.weight.numel() == 0, "the module has given its weight away"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model__base_precision", "int8"), ("model__checkpointing", "selective"), ("model__compile", True), ("model__attention", "sdpa"),
        ("model__feed_forward_chunks", 2), ("offload__blocks", True), ("offload__blocks_per_group", 2), ("offload__disk_path", "/fast"),
    ],
)  # fmt: skip
def test_what_only_the_fast_form_has_is_refused_where_it_cannot_run(tmp_path: Path, setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{setting.replace('__', '.')}.*LoRA on proj_out"):
        built(tmp_path, lora__targets=["to_q", "proj_out"], **{setting: value})


def test_so_with_the_adapters_dropout_and_with_activations_that_are_all_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^offload.blocks:.*lora.dropout"):
        built(tmp_path, lora__dropout=0.1, offload__blocks=True)
    with pytest.raises(ConfigError, match=r"^model.base_precision int8:.*model.checkpointing none"):
        built(tmp_path, model__checkpointing="none", model__base_precision="int8")
