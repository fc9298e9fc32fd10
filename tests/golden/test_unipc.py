"""The sampler's steps against the official sampler's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ray_s2v.validation.schedulers import scheduler_of


@pytest.mark.parametrize(("steps", "shift"), [(6, 3), (10, 5), (40, 3)])
def test_trajectory(golden: Path, steps: int, shift: float) -> None:
    """With the velocity field that the vectors were made with."""
    name = f"n{steps}.shift{shift}"
    facts, stored = json.loads((golden / "unipc.json").read_text())[name], load_file(golden / "unipc.safetensors")
    assert facts["velocity"] == "(x - x0) * 0.7 + 0.3 * sin(3 x) + timestep / 1000"
    scheduler = scheduler_of("unipc", steps, shift)
    assert scheduler.timesteps.tolist() == facts["timesteps"]
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(facts["sigmas"]), atol=1e-7, rtol=0)
    x, x0 = stored[f"{name}.noise"], stored[f"{name}.x0"]
    for timestep, expected in zip(scheduler.timesteps, stored[f"{name}.trajectory"], strict=True):
        velocity = (x - x0) * 0.7 + 0.3 * torch.sin(3 * x) + timestep / 1000
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
        torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)
