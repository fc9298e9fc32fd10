"""The layouts and names in circulation load to the same weights; anything amiss is refused by name."""

import json
import re
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ray_s2v.model.checkpoint import check_checkpoint
from ray_s2v.model.names import official_name
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import ConfigError

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "audio_dim": 8,
    "audio_inject_layers": (0, 1),
    "ffn_dim": 32,
    "num_layers": 2,
}
TINY_OFFICIAL: dict[str, Any] = {
    "_class_name": "WanModel_S2V",
    "_diffusers_version": "0.30.0",
    "model_type": "s2v",
    "dim": 24,
    "num_heads": 2,
    "in_dim": 16,
    "out_dim": 16,
    "cond_dim": 16,
    "text_dim": 16,
    "freq_dim": 16,
    "audio_dim": 8,
    "audio_inject_layers": [0, 1],
    "ffn_dim": 32,
    "num_layers": 2,
    "zero_init": True,
    "motion_token_num": 1024,
}
ENCODER = "condition_embedder.causal_audio_encoder"
WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def model() -> WanS2VTransformer3DModel:
    model = WanS2VTransformer3DModel(**TINY)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


def with_official_names(model: WanS2VTransformer3DModel) -> dict[str, Tensor]:
    return {official_name(name): tensor.contiguous() for name, tensor in model.state_dict().items()}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], num_shards: int = 3, index: bool = True) -> Path:
    """A checkpoint of several shards, as the official one is laid out."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    shards = {f"{WEIGHTS}-{i + 1:05d}-of-{num_shards:05d}.safetensors": names[i::num_shards] for i in range(num_shards)}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    if index:
        weight_map = {name: file for file, part in shards.items() for name in part}
        (folder / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def official_flat(folder: Path, model: WanS2VTransformer3DModel) -> None:
    write(folder, TINY_OFFICIAL, with_official_names(model))
    save_file({"strange": torch.zeros(1)}, folder / "another_model.safetensors")  # not in the index


def official_without_index(folder: Path, model: WanS2VTransformer3DModel) -> None:
    write(folder, TINY_OFFICIAL, with_official_names(model), index=False)
    save_file({"strange": torch.zeros(1)}, folder / "another_model.safetensors")


def official_inside_transformer(folder: Path, model: WanS2VTransformer3DModel) -> None:
    write(folder / "transformer", TINY_OFFICIAL, with_official_names(model))


def diffusers_one_file(folder: Path, model: WanS2VTransformer3DModel) -> None:
    model.save_pretrained(folder)
    assert [file.name for file in folder.glob("*.safetensors")] == [f"{WEIGHTS}.safetensors"]


def diffusers_shards_inside_transformer(folder: Path, model: WanS2VTransformer3DModel) -> None:
    model.save_pretrained(folder / "transformer", max_shard_size="100KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 2


def diffusers_old_config(folder: Path, model: WanS2VTransformer3DModel) -> None:
    """The published file was written before `num_weighted_avg_layers`, and others have keys that we do not know."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["num_weighted_avg_layers"]
    (folder / "config.json").write_text(json.dumps({**config, "a_later_setting": 3}))


def diffusers_aliases(folder: Path, model: WanS2VTransformer3DModel) -> None:
    aliases = {f"{ENCODER}.weights": f"{ENCODER}.weighted_avg.weights"}
    for conv in ("conv2", "conv3"):
        for part in ("weight", "bias"):
            aliases[f"{ENCODER}.encoder.{conv}.conv.{part}"] = f"{ENCODER}.encoder.{conv}.conv.conv.{part}"
    tensors = model.state_dict()
    assert len(aliases) == 5
    assert aliases.keys() <= tensors.keys()
    write(folder, {**TINY, "_class_name": "WanS2VTransformer3DModel"}, {aliases.get(k, k): v.contiguous() for k, v in tensors.items()})


def diffusers_casual(folder: Path, model: WanS2VTransformer3DModel) -> None:
    tensors = {name.replace("causal", "casual"): tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert tensors.keys() != model.state_dict().keys()
    write(folder, TINY, tensors)


LAYOUTS = [
    official_flat,
    official_without_index,
    official_inside_transformer,
    diffusers_one_file,
    diffusers_shards_inside_transformer,
    diffusers_old_config,
    diffusers_aliases,
    diffusers_casual,
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_the_same(
    layout: Callable[[Path, WanS2VTransformer3DModel], None], model: WanS2VTransformer3DModel, tmp_path: Path
) -> None:
    layout(tmp_path / "checkpoint", model)
    check_checkpoint(WanS2VTransformer3DModel, str(tmp_path / "checkpoint"))
    loaded = WanS2VTransformer3DModel.from_pretrained(str(tmp_path / "checkpoint"))
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    ours = {key: value for key, value in model.config.items() if not key.startswith("_")}
    assert {key: tuple(v) if isinstance(v := loaded.config[key], list) else v for key in ours} == ours


def test_subfolder(model: WanS2VTransformer3DModel, tmp_path: Path) -> None:
    official_flat(tmp_path / "checkpoint" / "network", model)
    with pytest.raises(ConfigError, match=r"config\.json"):
        WanS2VTransformer3DModel.from_pretrained(str(tmp_path / "checkpoint"))
    loaded = WanS2VTransformer3DModel.from_pretrained(str(tmp_path / "checkpoint"), subfolder="network")
    assert torch.equal(loaded.proj_out.weight, model.proj_out.weight)


def without(tensors: dict[str, Tensor]) -> str:
    del tensors["blocks.1.self_attn.q.bias"]
    return "missing: blocks.1.attn1.to_q.bias"


def with_one_more(tensors: dict[str, Tensor]) -> str:
    tensors["blocks.1.self_attn.q.scale"] = torch.ones(1)
    return "not expected: blocks.1.attn1.to_q.scale"


def with_a_third_block(tensors: dict[str, Tensor]) -> str:
    tensors["blocks.2.norm3.bias"] = torch.ones(24)
    return "not expected: blocks.2.norm2.bias"


def misshapen(tensors: dict[str, Tensor]) -> str:
    tensors["head.head.bias"] = torch.ones(32)
    return "of another shape: proj_out.bias (32,) instead of (64,)"


def twice(tensors: dict[str, Tensor]) -> str:
    tensors["proj_out.bias"] = tensors["head.head.bias"].clone()
    return "are both proj_out.bias"


@pytest.mark.parametrize("spoil", [without, with_one_more, with_a_third_block, misshapen, twice])
@pytest.mark.parametrize("read", [WanS2VTransformer3DModel.from_pretrained, partial(check_checkpoint, WanS2VTransformer3DModel)])
def test_other_tensors_are_refused(
    read: Callable[[str], Any], spoil: Callable[[dict[str, Tensor]], str], model: WanS2VTransformer3DModel, tmp_path: Path
) -> None:
    tensors = with_official_names(model)
    message = spoil(tensors)
    folder = write(tmp_path / "checkpoint", TINY_OFFICIAL, tensors)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(str(folder))


@pytest.mark.parametrize("source", ["no/such/folder", "./nothing", "nothing"])
def test_no_folder(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        check_checkpoint(WanS2VTransformer3DModel, str(tmp_path / source))


def test_no_subfolder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        WanS2VTransformer3DModel.from_pretrained(str(tmp_path), subfolder="network")


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        check_checkpoint(WanS2VTransformer3DModel, str(tmp_path))


def test_missing_shard_of_the_index(model: WanS2VTransformer3DModel, tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint", TINY_OFFICIAL, with_official_names(model))
    lost = f"{WEIGHTS}-00002-of-00003.safetensors"
    (folder / lost).unlink()
    with pytest.raises(ConfigError, match=lost):
        check_checkpoint(WanS2VTransformer3DModel, str(folder))
    with pytest.raises(ConfigError, match=lost):
        WanS2VTransformer3DModel.from_pretrained(str(folder))


def test_check_of_the_14b_checkpoint_reads_headers_only(tmp_path: Path) -> None:
    """The weights are a file of 33 GB that is one hole on the disk; whoever reads it needs that memory."""
    with torch.device("meta"):
        shapes = {official_name(name): tensor.shape for name, tensor in WanS2VTransformer3DModel().state_dict().items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * shape.numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    with (tmp_path / f"{WEIGHTS}.safetensors").open("wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        file.truncate(8 + len(described) + end)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "s2v", "dim": 5120, "num_heads": 40}))
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_checkpoint(WanS2VTransformer3DModel, str(tmp_path))
    assert end == 2 * 16_295_755_609
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kb < 1_000_000


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY_OFFICIAL))
    with pytest.raises(ConfigError, match="weights are missing"):
        check_checkpoint(WanS2VTransformer3DModel, str(tmp_path))


def test_damaged_files_are_named(model: WanS2VTransformer3DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"diffusion_pytorch_model\.safetensors is damaged"):
        WanS2VTransformer3DModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is no readable JSON"):
        WanS2VTransformer3DModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"dim": 64}')
    with pytest.raises(ConfigError, match="num_heads"):
        WanS2VTransformer3DModel.from_pretrained(tmp_path)
