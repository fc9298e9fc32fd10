"""Latents to pictures in a fraction of the VAE's time, for looking at: the decoder of TAEW 2.1.

Weights: taew2_1.pth or taew2_1.safetensors of github.com/madebyollin/taehv (MIT), whose names the layers have.
"""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ray_s2v.encoders.loading import MAX_NAMES
from ray_s2v.schema import FRAMES_PER_LATENT, LATENT_CHANNELS, LATENT_STRIDE, ConfigError

WIDTHS = (256, 128, 64, 64)  # channels, from the latents' size to the pictures'
FRAMES_OF_ONE = (1, 2, 2)  # that each doubling of the size makes of a frame
BLOCKS = 3  # before each doubling
BOUND = 3.0  # that latents are squashed to


class TinyDecoder(nn.Module):
    """Causal in time: a frame depends on its own latent and those before."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Squash(), _conv(LATENT_CHANNELS, widths[0]), nn.ReLU()]
        for (width, narrower), times in zip(pairwise(widths), FRAMES_OF_ONE, strict=True):
            layers += [_Block(width) for _ in range(BLOCKS)]
            layers += [nn.Upsample(scale_factor=2), _MoreFrames(width, times), _conv(width, narrower, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), _conv(widths[-1], 3))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Video [4 * latent_frames - 3, height, width, 3] in [-1, 1], float32, of normalised latents [16, latent_frames, h, w].

        As VideoEncoder.decode: the same latents, the same frames. In memory is what one latent needs, and the video.
        """
        like = next(self.parameters())
        height, width = (LATENT_STRIDE * side for side in latents.shape[-2:])
        video = torch.empty(FRAMES_PER_LATENT * latents.shape[1], height, width, 3, device=like.device)
        before: dict[_Block, Tensor] = {}
        for part, latent in zip(video.split(FRAMES_PER_LATENT), latents.to(like.device, like.dtype).unbind(1), strict=True):
            part.copy_(self._of_one(latent[None], before).permute(0, 2, 3, 1))
        # The first latent stands for one frame, which is the last of its four.
        return video[FRAMES_PER_LATENT - 1 :].clamp_(0, 1).mul_(2).sub_(1)

    def _of_one(self, frames: Tensor, before: dict[_Block, Tensor]) -> Tensor:
        """The four pictures [4, 3, 8h, 8w] of a latent [1, 16, h, w]; `before` has what each block saw last, zeros at the beginning."""
        for layer in self.decoder:
            if isinstance(layer, _Block):
                past = torch.cat([before.get(layer, torch.zeros_like(frames[:1])), frames[:-1]])
                before[layer] = frames[-1:]
                frames = layer(frames, past)
            else:
                frames = layer(frames)
        return frames


def load_tiny_decoder(file: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, widths: tuple[int, ...] = WIDTHS) -> TinyDecoder:
    """The decoder with the weights of a .safetensors or .pth file; the encoder that stands in the same file is left out.

    Raises ConfigError where the file is not there, damaged, or of another decoder.
    """
    try:
        tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{file}: no weights of TAEW 2.1 can be read here: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ConfigError(f"{file}: no weights of TAEW 2.1: it holds other things than tensors by their names")
    model = TinyDecoder(widths)
    wanted = model.state_dict()
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.")}
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()] + [
        f"{name} is unknown" for name in found.keys() - wanted.keys()
    ]
    wrong += [
        f"{name} is {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    if wrong:
        raise ConfigError("\n".join([f"{file}: not TAEW 2.1: {len(wrong)} tensors, such as", *sorted(wrong)[:MAX_NAMES]]))
    model.load_state_dict(found)
    return model.to(device, dtype).eval().requires_grad_(False)


class _Squash(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return BOUND * torch.tanh(latents / BOUND)


class _Block(nn.Module):
    """A residual block of a frame and the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))

    def forward(self, frames: Tensor, past: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.cat([frames, past], dim=1)) + frames)


class _MoreFrames(nn.Module):
    """`times` frames of each, one after the other."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, times * width, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        width = frames.shape[1]
        return self.conv(frames).unflatten(1, (-1, width)).flatten(0, 1)


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
