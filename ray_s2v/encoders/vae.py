"""Pictures to latents and back: the VAE of Wan 2.1, and which latents of a clip are its own and which its history."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ray_s2v.encoders.loading import load_frozen
from ray_s2v.schema import FRAMES_PER_LATENT, HISTORY_FRAMES, HISTORY_LATENTS, Kind


def scaled(pixels: np.ndarray | Tensor, device: str) -> Tensor:
    """Pictures in [-1, 1], float32, on `device`, of uint8 ones; the shape stays."""
    pixels = pixels if isinstance(pixels, Tensor) else torch.tensor(pixels)
    assert pixels.dtype == torch.uint8
    return pixels.to(device).float() / 127.5 - 1


class VideoEncoder:
    """The frozen VAE; `path` as in location.find_place. What it returns lies on `device`."""

    def __init__(self, path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.device = device
        self.dtype = dtype
        self.vae = load_frozen(AutoencoderKLWan, path, device, dtype)
        self.mean = torch.tensor(self.vae.config.latents_mean, device=device).view(-1, 1, 1, 1)
        self.std = torch.tensor(self.vae.config.latents_std, device=device).view(-1, 1, 1, 1)

    def encode(self, pixels: np.ndarray | Tensor) -> Tensor:
        """Latents as of encode_scaled. pixels: uint8 [frames, height, width, 3]; a reference picture is one frame."""
        return self.encode_scaled(scaled(pixels, self.device))

    def encode_clip(self, pixels: np.ndarray | Tensor, kind: Kind, num_frames: int, num_missing: int = 0) -> tuple[Tensor, Tensor | None]:
        """Latents [16, num_frames / 4, h, w] of a clip, latent k being frames 4k..4k+3, and its motion latents [16, 19, h, w].

        pixels: uint8 [frames before + num_frames, height, width, 3]. A first clip has one frame before: the real one, or its
        own first frame repeated; its motion latents are None. A continuation has 73 before, of which `num_missing`, at the
        far end, do not exist and are not in `pixels`.
        """
        num_before = HISTORY_FRAMES if kind == "continuation" else 1
        assert num_frames % FRAMES_PER_LATENT == 0
        assert kind == "continuation" or num_missing == 0
        assert num_missing + len(pixels) == num_before + num_frames
        video = scaled(pixels, self.device)
        # Mid-grey of value 0, which no uint8 gives; the sampler starts from the same history.
        missing = video.new_zeros(num_missing, *video.shape[1:])
        latents = self.encode_scaled(torch.cat([missing, video]))
        if kind == "first":
            return latents[:, 1:], None
        return latents[:, HISTORY_LATENTS:], latents[:, :HISTORY_LATENTS]

    @torch.no_grad()
    def encode_scaled(self, video: Tensor) -> Tensor:
        """Normalised latents [16, 1 + (frames - 1) // 4, height / 8, width / 8], float32: the posterior's mode, never a sample.

        video: [frames, height, width, 3] in [-1, 1]. Latent 0 is frame 0, latent j is frames 4j-3..4j; frames left over at the
        end are ignored. wan_s2v section 8.
        """
        mode = self.vae.encode(video.to(self.device, self.dtype).permute(3, 0, 1, 2)[None]).latent_dist.mode()[0]
        return (mode.float() - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Video [4 * latent_frames - 3, height, width, 3] in [-1, 1], float32, of normalised latents [16, latent_frames, h, w]."""
        video = self.vae.decode((latents.to(self.device) * self.std + self.mean).to(self.dtype)[None]).sample[0]
        return video.float().permute(1, 2, 3, 0)
