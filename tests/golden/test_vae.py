"""The video encoder against the golden VAE."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_s2v.encoders.vae import VideoEncoder

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def case(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "vae_tiny/case.safetensors")


@pytest.fixture(scope="module")
def encoder(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoEncoder:
    folder = tmp_path_factory.mktemp("vae")
    shutil.copy(golden / "vae_tiny/config.json", folder)
    weights = load_file(golden / "vae_tiny/weights-00001-of-00001.safetensors")
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return VideoEncoder(folder)


@pytest.mark.parametrize("num_frames", [1, 5, 9, 12])
def test_latents_are_the_normalised_mode(encoder: VideoEncoder, case: dict[str, Tensor], num_frames: int) -> None:
    latents = encoder.encode_scaled(case[f"f{num_frames}.pixels"][0].permute(1, 2, 3, 0))
    torch.testing.assert_close(latents, case[f"f{num_frames}.latents"][0], **TOLERANCE)
    torch.testing.assert_close(latents * encoder.std + encoder.mean, case[f"f{num_frames}.mode"][0], **TOLERANCE)


def test_decoded_pixels(encoder: VideoEncoder, case: dict[str, Tensor]) -> None:
    pixels = encoder.decode(case["decode.latents"][0])
    torch.testing.assert_close(pixels, case["decode.pixels"][0].permute(1, 2, 3, 0), atol=3e-5, rtol=0.0)
