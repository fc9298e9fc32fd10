"""The network by itself: gradients under checkpointing, batches, precision, and the configurations that it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import ConfigError
from tests.tiny import TINY

TINY_OFFICIAL: dict[str, Any] = {
    "_class_name": "WanModel_S2V",
    "model_type": "s2v",
    "dim": 24,
    "num_heads": 2,
    "text_dim": 16,
    "freq_dim": 16,
    "audio_dim": 8,
    "audio_inject_layers": [0, 1, 3],
    "ffn_dim": 32,
    "num_layers": 4,
    "num_weighted_avg_layers": 5,
    "text_len": 512,
    "num_audio_token": 4,
    "enable_motioner": False,
    "enable_tsm": False,
    "window_size": [-1, -1],
    "qk_norm": True,
}


def tiny_model() -> WanS2VTransformer3DModel:
    """Every parameter random, so that no term vanishes."""
    model = WanS2VTransformer3DModel(**TINY).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
        model.condition_embedder.causal_audio_encoder.weights.abs_()  # their sum is a divisor
    return model


def inputs(batch: int, frames: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "latents": normal(batch, 16, frames, 8, 12),
        "timestep": torch.tensor([637.25, 80.5])[:batch],
        "text": [normal(length, 16) for length in (7, 30)[:batch]],
        "reference": normal(batch, 16, 1, 8, 12),
        "motion": normal(batch, 16, 19, 8, 12),
        "pose": normal(batch, 16, frames, 8, 12),
        "audio": normal(batch, 5, 8, 4 * frames),
    }


def test_checkpointing_changes_no_gradient() -> None:
    model, given = tiny_model(), inputs(batch=2)
    target = torch.randn(given["latents"].shape, generator=torch.Generator().manual_seed(2))
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        (model(**given) - target).square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    plain, recomputed = gradients
    for name, gradient in plain.items():
        assert gradient.norm() > 0, name
        assert (recomputed[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


def test_checkpointing_runs_each_layer_once_more() -> None:
    """Without this the comparison above could compare two plain passes."""
    model, given = tiny_model(), inputs(batch=1)
    ran: list[int] = []
    for index, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    injected: list[int] = []
    model.audio_injector.register_forward_pre_hook(lambda module, args: injected.append(args[0]))
    model.enable_gradient_checkpointing()
    model(**given).sum().backward()
    assert ran == [0, 1, 2, 3, 3, 2, 1, 0]
    assert injected == [0, 1, 2, 2, 1, 0]


def test_batch_is_its_samples() -> None:
    """The rotary table, the boundary and the time columns hold for every sample, with motion as well."""
    model, given = tiny_model(), inputs(batch=2)
    with torch.no_grad():
        together = model(**given)
        alone = torch.cat([model(**{name: value[i : i + 1] for name, value in given.items()}) for i in range(2)])
    assert (together - alone).abs().max() < 5e-6 * together.std()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", (1, 1, 1)),
        ("cross_attn_norm", False),
        ("qk_norm", None),
        ("enable_adain", False),
        ("adain_mode", "full"),
        ("enable_framepack", False),
        ("framepack_drop_mode", "drop"),
        ("zero_timestep", False),
        ("added_kv_proj_dim", 64),
        ("audio_inject_layers", (1, 0)),
        ("audio_inject_layers", (0, 0, 1)),
        ("audio_inject_layers", (0, 4)),
    ],
)
def test_other_diffusers_configuration_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key):
        WanS2VTransformer3DModel(**{**TINY, key: value})
    (tmp_path / "config.json").write_text(json.dumps({**TINY, key: value}))
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(ConfigError, match=key):
        WanS2VTransformer3DModel.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "t2v"),
        ("num_audio_token", 8),
        ("enable_motioner", True),
        ("enable_tsm", True),
        ("trainable_token_pos_emb", True),
        ("window_size", [5, 5]),
        ("text_len", 256),
        ("qk_norm", False),
        ("cross_attn_norm", False),
        ("enable_adain", False),
        ("adain_mode", "full"),
        ("enable_framepack", False),
        ("framepack_drop_mode", "drop"),
        ("zero_timestep", False),
        ("audio_inject_layers", [3, 1]),
    ],
)
def test_other_official_configuration_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**TINY_OFFICIAL, key: value}))
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(ConfigError, match=key):
        WanS2VTransformer3DModel.from_pretrained(str(tmp_path))


def test_bfloat16_weights_keep_the_exact_ones_in_float32(tmp_path: Path) -> None:
    model, given = tiny_model(), inputs(batch=2)
    model.save_pretrained(tmp_path)
    half = WanS2VTransformer3DModel.from_pretrained(str(tmp_path), torch_dtype=torch.bfloat16)
    exact = {name for name, parameter in half.named_parameters() if parameter.dtype == torch.float32}
    embedder = "condition_embedder"
    modules = (f"{embedder}.time_embedder.", f"{embedder}.time_proj.", f"{embedder}.causal_audio_encoder.", "proj_out.")
    expected = {name for name, _ in model.named_parameters() if name.startswith(modules)}
    expected |= {"scale_shift_table", "trainable_condition_mask.weight"}
    expected |= {f"blocks.{i}.{name}" for i in range(4) for name in ("scale_shift_table", "norm2.weight", "norm2.bias")}
    assert exact == expected
    assert {parameter.dtype for name, parameter in half.named_parameters() if name not in exact} == {torch.bfloat16}
    with torch.no_grad():
        out, reference = half(**given), model(**given)
    assert out.dtype == torch.float32
    assert (out - reference).norm() < 0.03 * reference.norm()  # 2 % where the CPU multiplies in bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_timestep_in_half_precision_is_refused(dtype: torch.dtype) -> None:
    given = inputs(batch=1)
    with pytest.raises(AssertionError, match="half precision"):
        tiny_model()(**{**given, "timestep": given["timestep"].to(dtype)})


def test_audio_of_another_length_is_refused() -> None:
    given = inputs(batch=1)
    with pytest.raises(AssertionError, match="need 8 audio frames, not 7"):
        tiny_model()(**{**given, "audio": given["audio"][..., :7]})
