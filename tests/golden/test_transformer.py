"""The network against runs of the official one with the same weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_s2v.model.names import diffusers_name
from ray_s2v.model.rope import rotary_angles, segment_positions
from ray_s2v.model.transformer import WanS2VTransformer3DModel

from .vectors import Case, load_facts

CASES = [
    "first_clip", "continuation", "continuation_last1", "continuation_last0", "odd_size", "short_motion", "batch2", "batch2_first_clip",
]  # fmt: skip
WHOLE = {"atol": 3e-5, "rtol": 0.0}
PART = {"atol": 1e-5, "rtol": 0.0}
INJECTED = (0, 2, 4)


def call(model: WanS2VTransformer3DModel, case: dict[str, Any], flags: dict[str, Any]) -> Tensor:
    return model(
        case["in.x"],
        case["in.t"],
        [case[name] for name in ("in.context.0", "in.context.1") if name in case],
        case["in.ref_latents"],
        None if flags["drop_motion_frames"] else case["in.motion_latents"],
        case["in.cond_states"],
        audio=case["in.audio_input"],
        add_last_motion=flags["add_last_motion"],
        motion_frames=tuple(flags["motion_frames"]),
    )


@pytest.mark.parametrize("name", CASES)
def test_output(golden: Path, network: WanS2VTransformer3DModel, model_case: Case, name: str) -> None:
    case = model_case(name)
    torch.testing.assert_close(call(network, case, load_facts(golden / "model_a", name)), case["out"], **WHOLE)


def test_no_pose_is_a_pose_of_zeros(golden: Path, network: WanS2VTransformer3DModel, model_case: Case) -> None:
    name = "batch2_first_clip"
    case = model_case(name)
    assert not case["in.cond_states"].any()
    out = call(network, case | {"in.cond_states": None}, load_facts(golden / "model_a", name))
    torch.testing.assert_close(out, case["out"], **WHOLE)


@pytest.fixture(scope="module")
def traced(golden: Path, network: WanS2VTransformer3DModel, model_case: Case) -> dict[str, Any]:
    """What the run of trace.safetensors computes on its way, under the names of that file."""
    seen: dict[str, Any] = {}

    def entering_block_0(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen["tokens"], seen["context_embedded"], seen["time_modulation"], seen["rotary"], seen["noisy_token_count"] = args

    def audio_encoded(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        seen["audio.global"], seen["audio.local"] = output

    def injected(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen[f"block.{INJECTED[args[0]]}.after_audio"] = output

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.__setitem__(name, output)

    embedder = network.condition_embedder
    hooks = [
        network.blocks[0].register_forward_pre_hook(entering_block_0),
        embedder.causal_audio_encoder.register_forward_hook(audio_encoded),
        network.audio_injector.register_forward_hook(injected),
        *(block.register_forward_hook(keep(f"block.{index}.before_audio")) for index, block in enumerate(network.blocks)),
        network.norm_out.register_forward_pre_hook(lambda module, args: seen.__setitem__("head.in", args[0])),
        embedder.time_embedder.register_forward_hook(keep("time_embedder")),
        network.proj_out.register_forward_hook(keep("head.out")),
    ]
    seen["out"] = call(network, model_case("trace"), load_facts(golden / "model_a", "trace"))
    for hook in hooks:
        hook.remove()
    seen["head.time_embedding"] = seen.pop("time_embedder")[:1]  # the second row is that of timestep zero
    return seen


@pytest.mark.parametrize("name", ["tokens", "context_embedded", "time_modulation", "audio.global", "audio.local", "head.time_embedding"])
def test_trace_before_the_blocks(traced: dict[str, Any], model_case: Case, name: str) -> None:
    torch.testing.assert_close(traced[name], model_case("trace")[name], **PART)


@pytest.mark.parametrize(
    "name",
    [*(f"block.{i}.before_audio" for i in range(5)), *(f"block.{i}.after_audio" for i in INJECTED), "head.in", "head.out", "out"],
)
def test_trace_from_the_blocks_on(traced: dict[str, Any], model_case: Case, name: str) -> None:
    torch.testing.assert_close(traced[name], model_case("trace")[name], **WHOLE)


def test_trace_rotary_and_boundary(traced: dict[str, Any], model_case: Case, network: WanS2VTransformer3DModel) -> None:
    trace = model_case("trace")
    assert traced["noisy_token_count"] == trace["noisy_token_count"].item()
    positions = torch.cat([torch.from_numpy(segment) for segment in segment_positions(3, 16, 16)]).numpy()
    angles = rotary_angles(positions, network.config.attention_head_dim)
    for function, given in zip(("cos", "sin"), traced["rotary"], strict=True):
        expected = trace[f"rope.{function}"][0]
        torch.testing.assert_close(getattr(angles, function)(), expected, atol=1e-12, rtol=0.0)
        torch.testing.assert_close(given, expected.float(), atol=1e-6, rtol=0.0)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "checkpointed"])
def differentiated(
    request: pytest.FixtureRequest, golden: Path, official_folder: Path, model_case: Case
) -> tuple[WanS2VTransformer3DModel, dict[str, Tensor], Tensor]:
    """The network after a backward pass of the gradient case, that case with gradients at its inputs, and the loss."""
    model = WanS2VTransformer3DModel.from_pretrained(str(official_folder)).train()
    if request.param:
        model.enable_gradient_checkpointing()
    case = {name: tensor.clone() for name, tensor in model_case("gradients").items()}
    for name, tensor in case.items():
        tensor.requires_grad_(f"grad.{name}" in case)
    loss = (call(model, case, load_facts(golden / "model_a", "gradients")) - case["target"]).square().mean()
    loss.backward()
    return model, case, loss.detach()


Differentiated = tuple[WanS2VTransformer3DModel, dict[str, Tensor], Tensor]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def test_loss(differentiated: Differentiated) -> None:
    _, case, loss = differentiated
    torch.testing.assert_close(loss, case["loss"][0], atol=0.0, rtol=1e-5)


def test_gradients_of_the_inputs(differentiated: Differentiated) -> None:
    _, case, _ = differentiated
    inputs = [name for name in case if f"grad.{name}" in case]
    assert len(inputs) == 6
    for name in inputs:
        assert relative_error(case[name].grad, case[f"grad.{name}"]) < 3e-5, name


def test_gradients_of_parameters(differentiated: Differentiated) -> None:
    model, case, _ = differentiated
    parameters = dict(model.named_parameters())
    stored = [name for name in case if name.startswith("grad.param.")]
    assert len(stored) == 25
    for name in stored:
        assert relative_error(parameters[diffusers_name(name.removeprefix("grad.param."))].grad, case[name]) < 3e-5, name


def test_gradient_norms_of_all_parameters(golden: Path, differentiated: Differentiated) -> None:
    model, _, _ = differentiated
    norms = json.loads((golden / "model_a/gradients_all_param_grad_norms.json").read_text())
    expected = {diffusers_name(name): norm for name, norm in norms.items()}
    found = {name: parameter.grad.double().norm().item() for name, parameter in model.named_parameters()}
    assert found == pytest.approx(expected, rel=3e-5)
