"""Motion history as tokens: near frames fine, far frames coarse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BUCKETS = (1, 2, 16)  # latent frames packed at 1x, 2x and 4x, nearest first


class FramePacker(nn.Module):
    """Packs the last 19 latent frames before a clip into three segments of tokens (wan_s2v 4.2, drop mode "padd")."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=(1, 2, 2), stride=(1, 2, 2))
        self.proj_2x = nn.Conv3d(in_channels, dim, kernel_size=(2, 4, 4), stride=(2, 4, 4))
        self.proj_4x = nn.Conv3d(in_channels, dim, kernel_size=(4, 8, 8), stride=(4, 8, 8))

    def forward(self, motion: Tensor, add_last_motion: int) -> Tensor:
        """[batch, channels, frames, h, w] -> [batch, tokens, dim] in the order 1x, 2x, 4x.

        Frames fill the end of the history; what is missing is zeros at its far end. add_last_motion 1 hides the nearest
        frame, 0 the nearest three, 2 none; the number of tokens stays.
        """
        total = sum(BUCKETS)
        kept = motion[:, :, -total:]
        front = kept.new_zeros(*kept.shape[:2], total - kept.shape[2], *kept.shape[3:])
        history = torch.cat([front, kept], dim=2)
        if num_hidden := sum(BUCKETS[: max(2 - add_last_motion, 0)]):
            history = torch.cat([history[:, :, :-num_hidden], torch.zeros_like(history[:, :, -num_hidden:])], dim=2)
        far, middle, near = history.split(BUCKETS[::-1], dim=2)
        segments = (self.proj(near), self.proj_2x(middle), self.proj_4x(far))
        return torch.cat([segment.flatten(2).transpose(1, 2) for segment in segments], dim=1)
