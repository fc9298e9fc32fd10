"""TREAD (arXiv:2501.04765): in training, a share of the noisy video tokens skips some of the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Route:
    """Blocks `first` to `last` see only part of each latent frame's tokens."""

    skipping: float  # the share that does not go through them
    first: int
    last: int

    def kept(self, per_frame: int) -> int:
        """Tokens of a frame that go through; at least one."""
        return max(1, round((1 - self.skipping) * per_frame))


def kept_in_blocks(routes: Sequence[Route], per_frame: int, num_blocks: int) -> list[int]:
    """How many tokens of a frame each block sees."""
    counts = [per_frame] * num_blocks
    for route in routes:
        counts[route.first : route.last + 1] = [route.kept(per_frame)] * (route.last + 1 - route.first)
    return counts


@dataclass(frozen=True)
class Kept:
    """A route and the tokens drawn for it: numbers of noisy tokens in their order, as many of each frame."""

    route: Route
    tokens: Tensor


def drawn(routes: Sequence[Route], frames: int, per_frame: int, seed: int, device: torch.device) -> list[Kept]:
    """What goes through each route in one step: the same tokens of all clips of a batch. Routes on which none skips are left out."""
    generator, found = torch.Generator().manual_seed(seed), []
    for route in routes:
        count = route.kept(per_frame)
        if count < per_frame:
            chosen = torch.rand(frames, per_frame, generator=generator).argsort(dim=1)[:, :count].sort(dim=1).values
            tokens = (chosen + per_frame * torch.arange(frames)[:, None]).flatten()
            found.append(Kept(route, tokens.to(device)))
    return found


@dataclass(frozen=True)
class Way:
    """What blocks are given: hidden states [batch, tokens, dim], their rotary table, and how many of them are noisy."""

    hidden: Tensor
    rotary: tuple[Tensor, Tensor]
    num_noisy: int

    def entering(self, kept: Kept) -> Way:
        """The way through a route, on which reference and motion tokens go too. A token takes its rotary position along."""
        tokens = _with_the_rest(kept, self.hidden, self.num_noisy)
        cosines, sines = (table.index_select(0, tokens) for table in self.rotary)
        return Way(self.hidden.index_select(1, tokens), (cosines, sines), len(kept.tokens))

    def rejoined(self, kept: Kept, through: Tensor) -> Way:
        """This way again after the route, with what came through it in its place."""
        tokens = _with_the_rest(kept, self.hidden, self.num_noisy)
        return Way(self.hidden.index_copy(1, tokens, through), self.rotary, self.num_noisy)


def _with_the_rest(kept: Kept, hidden: Tensor, num_noisy: int) -> Tensor:
    return torch.cat([kept.tokens, torch.arange(num_noisy, hidden.shape[1], device=hidden.device)])
