"""LoRA: what is trained, that its start depends on the seed alone, and that PEFT and diffusers load what we save."""

from pathlib import Path

import pytest
import torch
from diffusers.loaders import PeftAdapterMixin
from peft import PeftModel
from torch import Tensor

from ray_s2v.model.lora import Layers, adapter_name, check_targets, load_adapter, lora_config, save_adapter, with_lora
from ray_s2v.schema import ConfigError
from tests.tiny import TINY, tiny_network

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
RANK, ALPHA = 4, 10


def output(model: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            torch.randn(1, 16, 2, 8, 8, generator=generator),
            torch.tensor([500.0]),
            [torch.randn(7, 16, generator=generator)],
            torch.randn(1, 16, 1, 8, 8, generator=generator),
            torch.randn(1, 16, 19, 8, 8, generator=generator),
            audio=torch.randn(1, 5, 8, 8, generator=generator),
        )


def trainable(model: PeftModel) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture(scope="module")
def trained() -> PeftModel:
    """A wrapped model whose adapter is no longer at its start, where it adds nothing."""
    model = with_lora(tiny_network(), lora_config(RANK, ALPHA, 0.0, ATTENTION, "all"), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(0.0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture
def folder(trained: PeftModel, tmp_path: Path) -> Path:
    tensors = {adapter_name(name): parameter.detach() for name, parameter in trainable(trained).items()}
    save_adapter(tmp_path, tensors, trained.peft_config["default"])
    return tmp_path


def test_peft_loads_what_we_save(trained: PeftModel, folder: Path) -> None:
    expected = output(trained)
    assert (expected - output(tiny_network())).abs().max() > 0.01
    loaded = PeftModel.from_pretrained(tiny_network(), str(folder)).eval()
    torch.testing.assert_close(output(loaded), expected, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("as_string", [True, False])
def test_diffusers_loads_what_we_save(trained: PeftModel, folder: Path, as_string: bool) -> None:
    model = tiny_network()
    model.load_lora_adapter(str(folder) if as_string else folder)
    torch.testing.assert_close(output(model), output(trained), atol=1e-6, rtol=0.0)


def test_diffusers_own_loader_finds_alpha_in_the_header(trained: PeftModel, folder: Path) -> None:
    model = tiny_network()
    PeftAdapterMixin.load_lora_adapter(model, str(folder), prefix="base_model.model", weight_name="adapter_model.safetensors")
    torch.testing.assert_close(output(model), output(trained), atol=1e-6, rtol=0.0)


def test_load_adapter_gives_back_what_was_saved(trained: PeftModel, folder: Path) -> None:
    tensors, config = load_adapter(folder)
    assert (config.r, config.lora_alpha) == (RANK, ALPHA)
    expected = {adapter_name(name): parameter for name, parameter in trainable(trained).items()}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], parameter) for name, parameter in expected.items())


def test_scale_is_alpha_over_rank(trained: PeftModel) -> None:
    layer = trained.base_model.model.blocks[0].attn1.to_q
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    given = torch.randn(3, 24, generator=torch.Generator().manual_seed(5))
    expected = layer.base_layer(given) + ALPHA / RANK * given @ down.T @ up.T
    torch.testing.assert_close(layer(given), expected, atol=1e-6, rtol=1e-6)


def test_start_depends_on_the_seed_alone() -> None:
    config = lora_config(RANK, ALPHA, 0.0, ATTENTION, "all")
    base = tiny_network()
    torch.manual_seed(7)
    expected_next = torch.rand(4)
    torch.manual_seed(7)
    first = with_lora(base, config, seed=3)
    assert torch.equal(torch.rand(4), expected_next)
    torch.manual_seed(8)
    again, other = with_lora(tiny_network(), config, seed=3), with_lora(tiny_network(), config, seed=4)
    start, start_again, start_other = trainable(first), trainable(again), trainable(other)
    assert all(torch.equal(start_again[name], parameter) for name, parameter in start.items())
    assert any(not torch.equal(start_other[name], parameter) for name, parameter in start.items())
    assert torch.equal(output(first.eval()), output(tiny_network()))


@pytest.mark.parametrize(
    ("layers", "parts"), [("all", {"blocks", "audio_injector"}), ("blocks", {"blocks"}), ("audio_injector", {"audio_injector"})]
)
def test_only_the_adapter_is_trained(layers: Layers, parts: set[str]) -> None:
    model = with_lora(tiny_network(), lora_config(RANK, ALPHA, 0.0, ATTENTION, layers), seed=0)
    tuned = trainable(model)
    assert {name.removeprefix("base_model.model.").split(".")[0] for name in tuned} == parts
    assert all(".lora_A." in name or ".lora_B." in name for name in tuned)
    assert {parameter.dtype for parameter in tuned.values()} == {torch.float32}
    num_attentions = {"blocks": 2 * TINY["num_layers"], "audio_injector": len(TINY["audio_inject_layers"])}
    assert len(tuned) == 2 * len(ATTENTION) * sum(num_attentions[part] for part in parts)


def test_adapter_of_a_bfloat16_model_is_float32() -> None:
    model = with_lora(tiny_network().to(torch.bfloat16), lora_config(RANK, ALPHA, 0.0, ATTENTION, "all"), seed=0)
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}


def test_feed_forward_targets() -> None:
    model = with_lora(tiny_network(), lora_config(RANK, ALPHA, 0.0, ["ffn.net.0.proj", "ffn.net.2"], "blocks"), seed=0)
    names = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trainable(model)}
    assert names == {f"blocks.{i}.ffn.net.{layer}" for i in range(TINY["num_layers"]) for layer in ("0.proj", "2")}


def test_diffusers_loads_the_file_itself(trained: PeftModel, folder: Path) -> None:
    model = tiny_network()
    model.load_lora_adapter(folder / "adapter_model.safetensors")
    torch.testing.assert_close(output(model), output(trained), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("targets", [ATTENTION, ["ffn.net.0.proj"], ["proj_out"], ["condition_embedder.time_proj"]])
def test_targets_that_are_there_pass(targets: list[str]) -> None:
    check_targets(tiny_network(), targets, "all")
    assert trainable(with_lora(tiny_network(), lora_config(RANK, ALPHA, 0.0, targets, "all"), seed=0))


@pytest.mark.parametrize(
    ("targets", "layers", "named"),
    [(["to_q", "foo"], "all", "foo"), (["norm2"], "all", "norm2"), (["ffn.net.2"], "audio_injector", "ffn.net.2")],
)
def test_targets_that_nothing_is_called_are_named(targets: list[str], layers: Layers, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"ends in {named};"):
        check_targets(tiny_network(), targets, layers)
