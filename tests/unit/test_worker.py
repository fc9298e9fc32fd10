"""The job's settings of the network reach it."""

from pathlib import Path

import torch

from ray_s2v.config.job import Model
from ray_s2v.training.worker import load_network
from tests.tiny import tiny_network


def test_checkpointing_and_dtype_are_obeyed(tmp_path: Path) -> None:
    tiny_network().save_pretrained(tmp_path)
    full = load_network(Model(path=str(tmp_path), dtype="bf16", checkpointing="full"), torch.device("cpu"))
    assert full.gradient_checkpointing
    assert full.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    plain = load_network(Model(path=str(tmp_path), dtype="fp32", checkpointing="none"), torch.device("cpu"))
    assert not plain.gradient_checkpointing
    assert plain.blocks[0].attn1.to_q.weight.dtype == torch.float32
