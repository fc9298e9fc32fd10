"""What tests/gpu/precision.py trains on, and the sizes: clips whose latents are a smooth function of text, sound and reference picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ray_s2v.model.flow import clip_losses
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import FRAMES_PER_LATENT, HISTORY_LATENTS, LATENT_CHANNELS, Batch

SHIFT = 3.0  # of the noise levels, as a job's default
CODE = 2  # numbers that a text, a latent frame's sound and a reference picture say each
MODES = 4  # patterns that a latent frame is a sum of
WAVES = 2  # cosines each way that a pattern is a sum of
WORDS = 64
HELD_OUT = 10**6  # seeds from here on are never trained on


@dataclass(frozen=True)
class Shape:
    """A network's configuration and the clips it gets; latent sizes."""

    network: dict[str, Any]
    batch: int
    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Sizes:
    trained: Shape
    wide: Shape
    whole: Shape
    learning_rate: float
    steps: int
    lora_steps: int
    early: int  # LoRA steps after which gradients are compared, and once more after all
    units_on_host: int  # of `whole`


def _config(
    heads: int, head_dim: int, ffn: int, text: int, audio: int, layers: int, blocks: int, injected: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "num_attention_heads": heads, "attention_head_dim": head_dim, "ffn_dim": ffn, "text_dim": text, "audio_dim": audio,
        "num_weighted_avg_layers": layers, "num_layers": blocks, "audio_inject_layers": injected,
    }  # fmt: skip


SIZES = Sizes(
    trained=Shape(_config(8, 128, 2816, 256, 64, 5, 8, (0, 2, 4, 6)), 8, 4, 16, 16),
    wide=Shape(_config(40, 128, 13824, 4096, 1024, 25, 4, (0, 2)), 1, 4, 60, 104),
    whole=Shape({"text_dim": 4096, "audio_dim": 1024, "num_weighted_avg_layers": 25}, 1, 19, 60, 104),
    learning_rate=5e-4,
    steps=300,
    lora_steps=200,
    early=20,
    units_on_host=30,
)
_TOY = Shape(_config(4, 32, 352, 32, 16, 3, 3, (0, 2)), 4, 2, 8, 8)
SMALL = Sizes(_TOY, _TOY, _TOY, learning_rate=3e-3, steps=150, lora_steps=40, early=10, units_on_host=0)


def _draw(seed: int, *shape: int) -> Tensor:
    """The same normal numbers on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _patterns(seed: int, count: int, height: int, width: int) -> Tensor:
    """[count, 16, height, width], low waves of variance one."""
    rows, columns = (torch.cos(math.pi * torch.arange(WAVES)[:, None] * (torch.arange(size) + 0.5) / size) for size in (height, width))
    patterns = torch.einsum("mcij,ih,jw->mchw", _draw(seed, count, LATENT_CHANNELS, WAVES, WAVES), rows, columns)
    return patterns / patterns.std(dim=(1, 2, 3), keepdim=True)


class Task:
    """Clips for a shape. angle: how far the function from conditions to latents is turned from the first one towards another."""

    def __init__(self, shape: Shape, angle: float) -> None:
        self.shape = shape
        config = shape.network

        def turned(draw: Callable[[int], Tensor]) -> Tensor:
            return math.cos(angle) * draw(1) + math.sin(angle) * draw(2)

        self.directions = turned(lambda way: _draw(10 + way, 3 * CODE, MODES)) / CODE**0.5
        self.phases = turned(lambda way: _draw(20 + way, MODES))
        self.patterns = turned(lambda way: _patterns(30 + way, MODES, shape.height, shape.width))
        # How the conditions say their codes; the same at every angle.
        self.words = _draw(40, CODE + 1, WORDS, config["text_dim"])
        self.sounds = _draw(50, CODE, config["num_weighted_avg_layers"], config["audio_dim"])
        self.pictures = _patterns(60, CODE, shape.height, shape.width)

    def batch(self, seed: int, device: torch.device) -> Batch:
        """Clips that depend on the seed alone: continuations where it is odd. Noise levels are spread evenly from a random start."""
        count, frames, has_motion = self.shape.batch, self.shape.frames, seed % 2 == 1
        seen = frames + HISTORY_LATENTS
        text, picture, sound = (_draw(4 * seed + i, count, *more, CODE) for i, more in enumerate(((), (), (seen,))))
        codes = torch.cat([text[:, None].expand(-1, seen, -1), picture[:, None].expand(-1, seen, -1), sound], dim=2)
        weights = torch.sin(codes @ self.directions + self.phases) * (2 / MODES) ** 0.5
        latents = torch.einsum("btm,mchw->bcthw", weights, self.patterns).to(device)
        said = torch.einsum("bk,kwd->bwd", torch.cat([text, torch.ones(count, 1)], dim=1), self.words).to(device)
        heard = torch.einsum("btk,kld->bldt", sound[:, HISTORY_LATENTS:], self.sounds)
        noise = _draw(4 * seed + 3, count, LATENT_CHANNELS, frames + 1, self.shape.height, self.shape.width)
        start = noise[0, 0, -1, 0, 0].sigmoid()  # of the levels; a frame that is not used otherwise
        return Batch(
            step=seed,
            slots=list(range(count)),
            clip_ids=["" for _ in range(count)],
            errors=["" for _ in range(count)],
            latents=latents[:, :, HISTORY_LATENTS:],
            reference=torch.einsum("bk,kchw->bchw", picture, self.pictures)[:, :, None].to(device),
            motion=latents[:, :, :HISTORY_LATENTS] if has_motion else None,
            pose=None,
            audio=heard.repeat_interleave(FRAMES_PER_LATENT, dim=3).to(device),
            text=list(said),
            noise=noise[:, :, :-1].to(device),
            noise_level=((torch.arange(count) + start) / count).to(device),
            seed=seed,
        )


def with_others_conditions(batch: Batch) -> Batch:
    """The batch with each clip's text, sound and picture given to the next one."""
    return replace(
        batch, text=[*batch.text[1:], batch.text[0]], audio=batch.audio.roll(-1, dims=0), reference=batch.reference.roll(-1, dims=0)
    )


def train(model: Any, task: Task, steps: int, learning_rate: float, device: torch.device, after: Callable[[int], None]) -> None:
    """AdamW steps on whatever is trainable, the rate rising over a tenth of them and falling in a half cosine; calls `after` each."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        clip_losses(model, task.batch(step, device), SHIFT).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after(step + 1)


def trained_weights(task: Task, steps: int, learning_rate: float, device: torch.device) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A network's float32 weights after training it in full, and its losses on held-out clips."""
    torch.manual_seed(0)
    with device:
        network = WanS2VTransformer3DModel(**task.shape.network).train()
    losses = {"untrained": held_out_loss(network, task, device)}
    train(network, task, steps, learning_rate, device, after=lambda _: None)
    losses["trained"] = held_out_loss(network, task, device)
    losses["trained, others' conditions"] = held_out_loss(network, task, device, with_others_conditions)
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}, losses


def held_out_loss(model: Any, task: Task, device: torch.device, changed: Callable[[Batch], Batch] = lambda batch: batch) -> float:
    """The mean loss of four batches that never change: clips, noise and noise levels; two of them continuations."""
    with torch.no_grad():
        losses = [clip_losses(model, changed(task.batch(HELD_OUT + i, device)), SHIFT).mean() for i in range(4)]
    return torch.stack(losses).mean().item()
