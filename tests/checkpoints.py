"""Whole checkpoints of a tiny adapter whose numbers tell their step."""

from pathlib import Path

import torch

from ray_s2v.model.lora import lora_config
from ray_s2v.training.checkpoint import State, load_state, save_checkpoint
from ray_s2v.training.contents import damage
from ray_s2v.training.progress import Progress, complete_checkpoints, load_progress

LORA = lora_config(4, 4, 0.0, ["to_q"], "all")
JOB = "run: {folder: größer}\n"
NAME = "base_model.model.blocks.0.attn1.to_q.lora_A.weight"


def state(step: int, numbers: int = 12) -> State:
    """The same for the same step; numbers: of each tensor."""
    drawn = torch.rand((3, numbers), generator=torch.Generator().manual_seed(step))
    return State({NAME: drawn[0]}, {f"{NAME}.exp_avg": drawn[1], f"{NAME}.exp_avg_sq": drawn[2]})


def checkpoint(folder: Path, step: int, keep: int = 3, plan: str = "plan", job: str = JOB) -> Path:
    """Saves one in a folder of checkpoints."""
    return save_checkpoint(folder, Progress(step, plan), state(step), LORA, job, keep)


def assert_of_its_step(path: Path, numbers: int = 12) -> None:
    """It is whole, and holds what training had come to at the step in its name."""
    assert damage(path) == ""
    step = load_progress(path).step
    assert path.name == f"step_{step:06d}"
    loaded, expected = load_state(path), state(step, numbers)
    for held, wanted in ((loaded.adapter, expected.adapter), (loaded.moments, expected.moments)):
        assert held.keys() == wanted.keys()
        assert all(torch.equal(held[name], tensor) for name, tensor in wanted.items())


def steps_in(folder: Path) -> list[int]:
    return [step for step, _ in complete_checkpoints(folder)]
