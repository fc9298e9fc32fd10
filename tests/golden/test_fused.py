"""The fast form of the network against runs of the official one with the same weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_s2v.model.fused.functions import AS_WRITTEN
from ray_s2v.model.fused.fuse import FastForm, fuse
from ray_s2v.model.transformer import WanS2VTransformer3DModel

from .test_transformer import CASES, WHOLE, call, relative_error
from .vectors import Case, load_facts

CPU = torch.device("cpu")
FORMS: dict[str, dict[str, Any]] = {
    "all kept": {},
    "spared": {"feed_forward_chunks": 3, "blocks_per_group": 2, "blocks_without_attention": 3},
}
# Those that reach the output through the blocks' hidden states alone. Gradients of text and sound pass through frozen layers that no
# training asks for them.
INPUTS = ["in.x", "in.ref_latents", "in.motion_latents", "in.cond_states"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors of this size threads cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FORMS)
def fast(request: pytest.FixtureRequest, official_folder: Path) -> WanS2VTransformer3DModel:
    network = WanS2VTransformer3DModel.from_pretrained(str(official_folder)).requires_grad_(False)
    fuse(network, FastForm(AS_WRITTEN, "cpu", **FORMS[request.param]), CPU)
    return network


@pytest.mark.parametrize("name", CASES)
def test_output(golden: Path, fast: WanS2VTransformer3DModel, model_case: Case, name: str) -> None:
    case = model_case(name)
    torch.testing.assert_close(call(fast, case, load_facts(golden / "model_a", name)), case["out"], **WHOLE)


def test_gradients_of_the_inputs(golden: Path, fast: WanS2VTransformer3DModel, model_case: Case) -> None:
    case = {name: tensor.clone() for name, tensor in model_case("gradients").items()}
    leaves: list[Tensor] = [case[name].requires_grad_() for name in INPUTS]
    loss = (call(fast, case, load_facts(golden / "model_a", "gradients")) - case["target"]).square().mean()
    torch.testing.assert_close(loss.detach(), case["loss"][0], atol=0.0, rtol=1e-5)
    for name, gradient in zip(INPUTS, torch.autograd.grad(loss, leaves), strict=True):
        assert relative_error(gradient, case[f"grad.{name}"]) < 3e-5, name
