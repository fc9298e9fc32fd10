"""The fast form of the whole network against its modules: diffusers' and PEFT's, differentiated by autograd."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from ray_s2v.model.flow import clip_losses
from ray_s2v.model.fused.functions import AS_WRITTEN
from ray_s2v.model.fused.fuse import FastForm, fuse, obstacles
from ray_s2v.model.fused.precision import BasePrecision, narrow, narrow_layers
from ray_s2v.model.fused.quantize import dequantized
from ray_s2v.model.lora import Layers, lora_config, with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Batch
from tests.spawn.zero_runs import tiny_batch
from tests.tiny import TINY, tiny_network

CPU = torch.device("cpu")
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
FEED_FORWARD = ["net.0.proj", "net.2"]
FIRST, CONTINUATION, BOTH, WITH_POSE = (0, [0]), (1, [0]), (1, [0, 1]), (2, [1, 2])  # a step of tiny_batch and its slots
BATCHES = pytest.mark.parametrize("which", [FIRST, CONTINUATION, BOTH, WITH_POSE], ids=["first", "continuation", "two", "with pose"])
WORST = 1e-5
Gradients = dict[str, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors of this size threads cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(which: tuple[int, list[int]]) -> Batch:
    """Texts long and varied: with a few words in 512 rows the gradients of the text's q and k all but cancel, and their noise is left."""
    made = tiny_batch(*which)
    made.text = [3 * torch.randn(500 - slot, 16, generator=torch.Generator().manual_seed(slot)) for slot in made.slots]
    return made


def norms_unlike_one(network: nn.Module) -> nn.Module:
    """The network with norms whose weights do something."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in network.named_parameters():
        if ".norm" in name:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def with_adapter(network: nn.Module, targets: list[str] = ATTENTION, layers: Layers = "all") -> PeftModel:
    """The network with LoRA that is no longer at its start, where half of the gradients are zero."""
    model = with_lora(network, lora_config(4, 10, 0.0, targets, layers), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


def by_modules(targets: list[str] = ATTENTION, layers: Layers = "all") -> PeftModel:
    return with_adapter(norms_unlike_one(tiny_network()), targets, layers)


def fast(model: PeftModel, **form: Any) -> PeftModel:
    fuse(model.base_model.model, FastForm(AS_WRITTEN, "cpu", **form), CPU)
    return model


def velocity(model: PeftModel, given: Batch) -> Tensor:
    return model(
        given.latents, 1000 * given.noise_level, given.text, given.reference, motion=given.motion, pose=given.pose, audio=given.audio
    )


def backward(model: PeftModel, which: tuple[int, list[int]]) -> None:
    clip_losses(model, batch(which), 3.0).sum().backward()


def gradients(model: PeftModel, *batches: tuple[int, list[int]]) -> Gradients:
    """Of every trained parameter, by its name, summed over the batches."""
    model.zero_grad()
    for which in batches:
        backward(model, which)
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


def off(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def assert_close(found: Gradients, expected: Gradients) -> None:
    assert found.keys() == expected.keys()
    wrong = {name: error for name in expected if not (error := off(found[name], expected[name])) < WORST}
    assert not wrong


def stashed(model: PeftModel) -> list[list[Any]]:
    """What the units keep now, in the order in which they run."""
    found, newest = [], model.base_model.model.blocks[0].unit.stash._newest
    while newest and (kept := newest()):
        found += [kept.tensors] if kept.tensors else []
        newest = kept.before
    return found[::-1]


@BATCHES
def test_output(which: tuple[int, list[int]]) -> None:
    given = batch(which)
    expected = velocity(by_modules(), given)
    found = velocity(fast(by_modules()), given)
    assert found.dtype == torch.float32
    assert off(found, expected) < 1e-6


@BATCHES
def test_gradients(which: tuple[int, list[int]]) -> None:
    assert_close(gradients(fast(by_modules()), which), gradients(by_modules(), which))


@pytest.mark.parametrize(
    "form",
    [
        {"feed_forward_chunks": 3},
        {"blocks_with_feed_forward": 1},
        {"blocks_with_feed_forward": 4, "blocks_without_attention": 3},
        {"blocks_without_attention": 2},
        {"blocks_without_attention": 4},
        {"blocks_per_group": 1},
        {"blocks_per_group": 3},
        {"blocks_per_group": 9},
        {"feed_forward_chunks": 5, "blocks_without_attention": 1, "blocks_per_group": 2},
    ],
    ids=str,
)
def test_forms_that_keep_less_or_more(form: dict[str, int]) -> None:
    """Two steps each, so that the second begins where the first has ended."""
    model, expected = fast(by_modules(), **form), by_modules()
    for which in (BOTH, WITH_POSE):
        assert_close(gradients(model, which), gradients(expected, which))


def test_weights_that_stream_from_a_disk(tmp_path: Path) -> None:
    model, expected = fast(by_modules(), blocks_per_group=1, weights_on_disk=tmp_path), by_modules()
    for which in (BOTH, WITH_POSE):
        assert_close(gradients(model, which), gradients(expected, which))


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (ATTENTION, "blocks"),
        (ATTENTION, "audio_injector"),
        (ATTENTION + FEED_FORWARD, "all"),
        (FEED_FORWARD, "blocks"),
        (["to_k"], "all"),
        (["attn2.to_v", "net.2"], "all"),
    ],
    ids=str,
)
def test_targets(targets: list[str], layers: Layers) -> None:
    expected = gradients(by_modules(targets, layers), BOTH)
    assert_close(gradients(fast(by_modules(targets, layers)), BOTH), expected)
    assert_close(gradients(fast(by_modules(targets, layers), feed_forward_chunks=3, blocks_per_group=1), BOTH), expected)


def test_gradients_of_two_backward_passes_add_up() -> None:
    model = fast(by_modules(), blocks_per_group=1)
    assert_close(gradients(model, FIRST, BOTH), gradients(by_modules(), FIRST, BOTH))


def test_two_forward_passes_before_one_backward_pass() -> None:
    model = fast(by_modules())
    first, second = (clip_losses(model, batch(case), 3.0).sum() for case in (FIRST, BOTH))
    (first + second).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_close(found, gradients(by_modules(), FIRST, BOTH))


@pytest.mark.parametrize("form", [{}, {"blocks_per_group": 1}], ids=str)
def test_forward_pass_without_gradients_disturbs_nothing(form: dict[str, int]) -> None:
    model, expected = fast(by_modules(), **form), gradients(by_modules(), BOTH)
    with torch.no_grad():
        before = velocity(model, batch(WITH_POSE))
    assert not stashed(model)
    model.zero_grad()
    loss = clip_losses(model, batch(BOTH), 3.0).sum()
    with torch.no_grad():
        between = velocity(model, batch(WITH_POSE))
    loss.backward()
    assert_close({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, expected)
    assert torch.equal(before, between)
    with torch.no_grad():
        assert off(before, velocity(by_modules(), batch(WITH_POSE))) < 1e-6


def test_backward_pass_leaves_nothing_behind() -> None:
    model = fast(by_modules())
    loss = clip_losses(model, batch(FIRST), 3.0).sum()
    assert len(stashed(model)) == TINY["num_layers"] + len(TINY["audio_inject_layers"])
    loss.backward()
    assert not stashed(model)


def block_nodes(loss: Tensor) -> list[Any]:
    """Of autograd, one a block, from the last to the first."""
    node, found = loss.grad_fn, []
    while node is not None:
        found += [node] if type(node).__name__ == "_BlockBackward" else []
        earlier = [function for function, _ in node.next_functions if function is not None]
        node = next((function for function in earlier if "AccumulateGrad" not in type(function).__name__), None)
    return found


def test_blocks_keep_what_the_form_says() -> None:
    model = fast(by_modules(), blocks_without_attention=2, blocks_with_feed_forward=1)
    loss = clip_losses(model, batch(FIRST), 3.0).sum()
    kept = [[tensor is not None for tensor in tensors] for tensors in stashed(model)]
    without, block, injector = [True, False, False], [True, True, True], [True]
    assert kept == [without, injector, without, injector, block, block, injector]  # injectors after blocks 0, 1 and 3
    assert [node.before is not None for node in block_nodes(loss)] == [True, False, False, False]


def test_feed_forward_goes_through_in_as_many_pieces_as_the_form_says() -> None:
    pieces = []

    def noting(*arguments: Any) -> Any:
        pieces.append(arguments[-1].feed_forward_chunks)
        return AS_WRITTEN.block_forward(*arguments)

    model = by_modules()
    fuse(model.base_model.model, FastForm(replace(AS_WRITTEN, block_forward=noting), "cpu", feed_forward_chunks=3), CPU)
    velocity(model, batch(FIRST))
    assert pieces == [3] * TINY["num_layers"]


def test_streamed_weights_leave_their_modules() -> None:
    model = fast(by_modules(ATTENTION + FEED_FORWARD), blocks_per_group=1)
    for name, parameter in model.base_model.model.named_parameters():
        streams = name.startswith(("blocks.", "audio_injector.injector.")) and not parameter.requires_grad
        assert (parameter.numel() == 0) == streams, name


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("form", [{}, {"blocks_per_group": 3}], ids=str)
def test_network_in_eight_bits(precision: BasePrecision, form: dict[str, int]) -> None:
    """int8 is the network of the rounded weights; float8 rounds activations and gradients too, here by about 3 % each."""
    narrowed, rounded = norms_unlike_one(tiny_network()), norms_unlike_one(tiny_network())
    for layer, twin in zip(narrow_layers(narrowed), narrow_layers(rounded), strict=True):
        narrow(layer, precision, CPU, CPU)
        twin.weight.data = dequantized(layer.weight, layer.get_buffer("scales"), torch.float32)
    model, expected = fast(with_adapter(narrowed), **form), with_adapter(rounded)
    if precision == "int8":
        assert off(velocity(model, batch(BOTH)), velocity(expected, batch(BOTH))) < 1e-6
        assert_close(gradients(model, BOTH), gradients(expected, BOTH))
        return
    assert 1e-3 < off(velocity(model, batch(BOTH)), velocity(expected, batch(BOTH))) < 0.1
    found, exact = (torch.cat([grad.flatten() for grad in gradients(m, BOTH).values()]) for m in (model, expected))
    assert off(found, exact) < 0.1


def test_bfloat16_is_no_further_from_float32_than_the_modules_are(tmp_path: Path) -> None:
    network: Any = norms_unlike_one(tiny_network())
    network.save_pretrained(tmp_path)
    exact = by_modules()
    models = [with_adapter(WanS2VTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)) for _ in range(2)]
    modules, model = models[0], fast(models[1])
    expected = velocity(exact, batch(BOTH))
    assert off(velocity(model, batch(BOTH)), expected) < 1.2 * off(velocity(modules, batch(BOTH)), expected) < 0.02
    all_expected = gradients(exact, BOTH)
    of_modules, found = gradients(modules, BOTH), gradients(model, BOTH)
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    for name, grad in all_expected.items():
        assert off(found[name], grad) < 1.5 * off(of_modules[name], grad) + 0.01, name


def test_nothing_stands_in_the_way_of_what_jobs_train_by_default() -> None:
    assert obstacles(by_modules().base_model.model) == []
    assert obstacles(by_modules(ATTENTION + FEED_FORWARD).base_model.model) == []
    assert obstacles(tiny_network().requires_grad_(False)) == []


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LoraConfig(target_modules=["to_q"], lora_dropout=0.1), "lora.dropout"),
        (LoraConfig(target_modules=["to_q"], use_dora=True), "a variant of LoRA"),
        (LoraConfig(target_modules=["proj_out"]), "LoRA on proj_out"),
        (LoraConfig(target_modules=["time_proj"]), "LoRA on condition_embedder.time_proj"),
        (LoraConfig(target_modules=["injector_adain_layers.1.linear"]), "LoRA on audio_injector.injector_adain_layers.1.linear"),
        (LoraConfig(target_modules=["to_q"], modules_to_save=["proj_out"]), "proj_out.modules_to_save.default.weight is trained"),
        (LoraConfig(target_modules=["to_q"], bias="lora_only"), "blocks.0.attn1.to_q.base_layer.bias is trained"),
    ],
)
def test_obstacles_are_named(config: LoraConfig, named: str) -> None:
    network = tiny_network()
    with_lora(network, config, seed=0)
    assert named in obstacles(network)
    with pytest.raises(AssertionError):
        fuse(network, FastForm(AS_WRITTEN, "cpu"), CPU)


def test_another_trained_parameter_is_an_obstacle() -> None:
    network: Any = by_modules().base_model.model
    network.blocks[2].scale_shift_table.requires_grad_(True)
    assert obstacles(network) == ["blocks.2.scale_shift_table is trained"]
