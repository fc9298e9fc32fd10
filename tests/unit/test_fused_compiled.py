"""The fast form's functions compiled, on a CPU, against the same functions as they are written."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from ray_s2v.model.flow import clip_losses
from ray_s2v.model.fused.functions import AS_WRITTEN, Functions, compiled
from ray_s2v.model.fused.fuse import FastForm, fuse
from ray_s2v.model.lora import lora_config, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from tests.spawn.zero_runs import tiny_batch
from tests.tiny import TINY

SMALL: dict[str, Any] = TINY | {"num_layers": 2, "audio_inject_layers": (0, 1)}
FIRST, CONTINUATION, ANOTHER_CONTINUATION = 0, 1, 3  # steps of tiny_batch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On tensors of this size threads cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_network(functions: Functions) -> PeftModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = WanS2VTransformer3DModel(**SMALL)
        model = with_lora(network, lora_config(4, 8, 0.0, ["to_q", "to_v", "net.2"], "all"), seed=1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    fuse(network, FastForm(functions, "cpu"), torch.device("cpu"))
    return model


def loss_and_gradients(model: PeftModel, step: int) -> dict[str, Tensor]:
    batch = tiny_batch(step, [0])
    batch.text = [3 * torch.randn(400, 16, generator=torch.Generator().manual_seed(step))]
    model.zero_grad()
    loss = clip_losses(model, batch, 3.0).sum()
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.mark.timeout(600)  # 12 to 50 s on two cores, by how much of it torch finds in its cache
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs by g++")
def test_compiled_functions_compute_what_is_written_and_fall_back_on_it(one_thread: None) -> None:
    notes: list[str] = []
    model, as_written = small_network(compiled(notes.append)), small_network(AS_WRITTEN)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in (CONTINUATION, ANOTHER_CONTINUATION):
            assert_same(loss_and_gradients(model, step), loss_and_gradients(as_written, step))
        assert notes == []  # compiled once for all blocks and batches of a length
        # Another length is compiled anew, which is an error here. Were nothing compiled, there would be none.
        assert_same(loss_and_gradients(model, FIRST), loss_and_gradients(as_written, FIRST))
    functions = ("block_forward", "injection_forward", "injection_pullback", "block_pullback")
    assert [note.split(" does not compile here")[0] for note in notes] == list(functions)
