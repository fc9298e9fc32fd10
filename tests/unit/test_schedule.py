"""The learning rate against the schedules of transformers and diffusers.

Theirs multiply by step / warmup while warming up, so that step 0 does not learn; ours multiplies by (step + 1) / warmup, which is
theirs one step later. From the end of the warm-up on they are the same function of the step.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import diffusers.optimization
import pytest
import torch
import transformers

from ray_s2v.training.schedule import learning_rate

PEAK = 3e-4
RUNS = [(20, 5), (100, 1), (100, 0), (7, 6), (24, 4), (2, 1)]


def theirs(schedule: Callable[..., Any], num_steps: int, warmup_steps: int) -> list[float]:
    """Learning rates of the steps 0 to num_steps, the last one being past the run."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = schedule(optimizer, num_warmup_steps=warmup_steps, num_training_steps=num_steps)
    rates = []
    for _ in range(num_steps + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("num_steps", "warmup_steps"), RUNS)
@pytest.mark.parametrize("library", [transformers, diffusers.optimization])
def test_same_as_theirs(library: Any, num_steps: int, warmup_steps: int) -> None:
    expected = theirs(library.get_cosine_schedule_with_warmup, num_steps, warmup_steps)
    for step in range(num_steps + 1):
        at = step + 1 if step < warmup_steps else step
        assert learning_rate(step, num_steps, PEAK, warmup_steps) == pytest.approx(expected[at], rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(("num_steps", "warmup_steps"), RUNS)
def test_every_step_of_a_run_learns_and_the_one_after_would_not(num_steps: int, warmup_steps: int) -> None:
    rates = [learning_rate(step, num_steps, PEAK, warmup_steps) for step in range(num_steps)]
    assert all(0 < rate <= PEAK for rate in rates)
    assert max(rates) == PEAK
    assert all(a < b for a, b in pairwise(rates[:warmup_steps]))
    assert all(a > b for a, b in pairwise(rates[warmup_steps:]))
    assert learning_rate(num_steps, num_steps, PEAK, warmup_steps) == pytest.approx(0, abs=1e-18)


@pytest.mark.parametrize("warmup_steps", [10, 40])
def test_run_that_ends_within_its_warmup(warmup_steps: int) -> None:
    rates = [learning_rate(step, 10, PEAK, warmup_steps) for step in range(10)]
    assert rates == pytest.approx([PEAK * n / warmup_steps for n in range(1, 11)])
