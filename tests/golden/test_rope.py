"""Rotary positions and tables of whole token sequences."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_s2v.model.rope import rotary_angles, rotary_table, segment_positions

TABLES = [f"d{head_dim}.{size}" for head_dim in (24, 128) for size in ("3x16x16", "2x20x28")]


def parsed(key: str) -> tuple[int, tuple[int, int, int]]:
    """Head size, and latent frames, height and width."""
    head_dim, size = key[1:].split(".")
    frames, height, width = map(int, size.split("x"))
    return int(head_dim), (frames, height, width)


def test_no_table_is_left_out(golden: Path) -> None:
    with np.load(golden / "rope_tables.npz") as tables:
        assert sorted(tables) == sorted(f"{key}.{function}" for key in TABLES for function in ("cos", "sin"))


@pytest.mark.parametrize("key", TABLES)
def test_tables(golden: Path, key: str) -> None:
    head_dim, size = parsed(key)
    angles = rotary_angles(np.concatenate(segment_positions(*size)), head_dim)
    with_motion = rotary_table(*size, True, head_dim, torch.device("cpu"))
    without = rotary_table(*size, False, head_dim, torch.device("cpu"))
    num_without = (size[0] + 1) * (size[1] // 2) * (size[2] // 2)
    with np.load(golden / "rope_tables.npz") as tables:
        for index, function in enumerate(("cos", "sin")):
            expected = torch.from_numpy(tables[f"{key}.{function}"])
            torch.testing.assert_close(getattr(angles, function)(), expected, atol=1e-12, rtol=0.0)
            close(with_motion[index], expected)
            close(without[index], expected[:num_without])


def close(table: Tensor, expected: Tensor) -> None:
    assert table.dtype == torch.float32
    torch.testing.assert_close(table.double(), expected, atol=1e-6, rtol=0.0)


def test_motion_positions_of_real_sizes(golden: Path) -> None:
    sizes = json.loads((golden / "rope_motion_positions.json").read_text())
    assert sizes
    for size, segments in sizes.items():
        found = segment_positions(*map(int, size.split("x")))[2:]
        for name, positions in zip(("1x", "2x", "4x"), found, strict=True):
            axes = [segments[name][axis] for axis in "thw"]
            expected = [(t, h, w) for t in axes[0] for h in axes[1] for w in axes[2]]
            assert positions.tolist() == [list(position) for position in expected], f"{size} {name}"
