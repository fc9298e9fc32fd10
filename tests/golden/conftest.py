"""The golden files, and the network with the golden weights."""

import shutil
from functools import cache, partial
from pathlib import Path

import pytest
from safetensors.torch import save_file

from ray_s2v.model.transformer import WanS2VTransformer3DModel

from .vectors import Case, load_case


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden files, made with the official code; its README.md describes them before compact.py made them smaller."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def model_case(golden: Path) -> Case:
    """The tensors of one file of model_a, by its name."""
    return cache(partial(load_case, golden / "model_a"))


@pytest.fixture(scope="session")
def official_folder(golden: Path, model_case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model_a as a checkpoint in the official layout, in two shards."""
    folder = tmp_path_factory.mktemp("official")
    shutil.copy(golden / "model_a/config.json", folder)
    weights = model_case("weights")
    names = sorted(weights)
    for index, part in enumerate((names[::2], names[1::2]), 1):
        save_file({name: weights[name] for name in part}, folder / f"diffusion_pytorch_model-0000{index}-of-00002.safetensors")
    return folder


@pytest.fixture(scope="session")
def network(official_folder: Path) -> WanS2VTransformer3DModel:
    return WanS2VTransformer3DModel.from_pretrained(str(official_folder)).requires_grad_(False)
