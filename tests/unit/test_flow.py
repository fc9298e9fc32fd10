"""Noise levels, noised latents and losses: closed forms, the sampler's own scheduler, and clips that count for nothing."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from ray_s2v.model.flow import clip_losses, noised, shifted
from ray_s2v.model.tread import Kept, Route
from ray_s2v.schema import Batch

SHAPE = (3, 16, 2, 4, 6)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(weight: tuple[float, ...] = (1.0, 1.0, 1.0), with_motion: bool = True, with_pose: bool = False) -> Batch:
    return Batch(
        step=0,
        slots=[0, 1, 2],
        clip_ids=["a", "b", "c"],
        errors=["" if w else "damaged" for w in weight],
        latents=random(*SHAPE, seed=1),
        reference=random(3, 16, 1, 4, 6, seed=2),
        motion=random(3, 16, 19, 4, 6, seed=3) if with_motion else None,
        pose=random(*SHAPE, seed=6) if with_pose else None,
        audio=random(3, 25, 8, 8, seed=4),
        text=[random(length, 8, seed=length) for length in (3, 5, 7)],
        noise=random(*SHAPE, seed=5),
        noise_level=torch.tensor([0.12345, 0.5, 0.9]),
        seed=0,
    )


class Answer(nn.Module):
    """Predicts `slope` * given + `offset` and remembers what it was given."""

    def __init__(self, offset: Tensor, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.offset = nn.Parameter(offset)
        self.given: list[Any] = []
        self.routes: Sequence[Kept] = ()

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: list[Tensor],
        reference: Tensor,
        motion: Tensor | None,
        pose: Tensor | None,
        audio: Tensor,
        routes: Sequence[Kept],
    ) -> Tensor:
        self.given, self.routes = [latents, timestep, text, reference, motion, pose, audio], routes
        return self.slope * latents + self.offset


def test_shift_in_numbers() -> None:
    # 3 u / (1 + 2 u)
    levels = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    torch.testing.assert_close(shifted(levels, 3.0), torch.tensor([0.0, 0.5, 0.75, 0.9, 1.0]))


def test_shift_one_changes_nothing() -> None:
    levels = torch.linspace(0, 1, 101)
    assert torch.equal(shifted(levels, 1.0), levels)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 5.0, 12.0])
def test_shift_is_the_samplers(shift: float) -> None:
    sigmas = FlowMatchEulerDiscreteScheduler(shift=shift).sigmas
    levels = FlowMatchEulerDiscreteScheduler(shift=1.0).sigmas
    torch.testing.assert_close(shifted(levels, shift), sigmas)


@pytest.mark.parametrize("shift", [1.5, 3.0, 7.0])
def test_shift_back_undoes_it_and_more_shift_is_more_noise(shift: float) -> None:
    levels = torch.linspace(0.01, 0.99, 99)
    torch.testing.assert_close(shifted(shifted(levels, shift), 1 / shift), levels)
    assert (shifted(levels, shift) > levels).all()
    assert (shifted(levels, shift).diff() > 0).all()


def test_noised_at_its_ends_and_between() -> None:
    latents, noise = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    mixed = noised(latents, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(mixed[0], latents[0])
    assert torch.equal(mixed[1], noise[1])
    torch.testing.assert_close(mixed[2], 0.75 * latents[2] + 0.25 * noise[2])


def test_noised_is_the_samplers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    timesteps = scheduler.timesteps[[0, 400, 999]]
    latents, noise = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    expected = scheduler.scale_noise(latents, timesteps, noise)
    torch.testing.assert_close(noised(latents, noise, timesteps / 1000), expected)


def test_samplers_step_along_the_target_arrives_at_the_latents() -> None:
    """The velocity that we train towards is the one by which the sampler gets from noised to clean in one step."""
    given = batch()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(1)
    assert scheduler.sigmas.tolist() == [1.0, 0.0]
    start = noised(given.latents, given.noise, torch.ones(3))
    end = scheduler.step(given.noise - given.latents, scheduler.timesteps[0], start).prev_sample
    torch.testing.assert_close(end, given.latents)


def test_exact_prediction_has_no_loss() -> None:
    given = batch()
    losses = clip_losses(Answer(given.noise - given.latents), given, 3.0)
    assert losses.dtype == torch.float32
    assert losses.tolist() == [0.0, 0.0, 0.0]


def test_prediction_off_by_c_has_loss_c_squared_for_each_clip() -> None:
    given = batch()
    off = torch.tensor([0.5, -2.0, 3.0]).view(3, 1, 1, 1, 1)
    losses = clip_losses(Answer(given.noise - given.latents + off), given, 3.0)
    torch.testing.assert_close(losses, torch.tensor([0.25, 4.0, 9.0]))


def test_routes_are_drawn_for_the_batchs_tokens() -> None:
    given, model = batch(), Answer(torch.zeros(SHAPE))
    clip_losses(model, given, 3.0)
    assert list(model.routes) == []
    clip_losses(model, given, 3.0, [Route(0.5, 1, 2)])
    (kept,) = model.routes
    assert kept.tokens.shape == (2 * 3,)  # of two frames of 2 x 3 tokens
    assert kept.tokens.max() < 2 * 6


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("with_motion", [True, False])
@pytest.mark.parametrize("with_pose", [True, False])
def test_what_the_model_is_given(shift: float, with_motion: bool, with_pose: bool) -> None:
    given, model = batch(with_motion=with_motion, with_pose=with_pose), Answer(torch.zeros(SHAPE))
    clip_losses(model, given, shift)
    latents, timestep, text, reference, motion, pose, audio = model.given
    u = given.noise_level
    sigma = shift * u / (1 + (shift - 1) * u)
    assert timestep.dtype == torch.float32
    torch.testing.assert_close(timestep, 1000 * sigma)
    assert not torch.equal(timestep, timestep.round())
    torch.testing.assert_close(latents, torch.lerp(given.latents, given.noise, sigma.view(3, 1, 1, 1, 1)))
    assert text is given.text
    assert reference is given.reference
    assert motion is given.motion
    assert pose is given.pose
    assert audio is given.audio


def test_loss_is_float32_where_the_prediction_is_not() -> None:
    given = batch()
    off = 300.0  # squared it is beyond what float16 holds
    model = Answer((given.noise - given.latents + off).half()).half()
    losses = clip_losses(lambda latents, *rest, **named: model(latents.half(), *rest, **named), given, 3.0)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.full((3,), off**2), rtol=1e-2, atol=0.0)


def test_gradient_of_a_clip_does_not_depend_on_the_others() -> None:
    given, offset = batch(), random(*SHAPE, seed=6)
    model = Answer(offset.clone())
    clip_losses(model, given, 3.0).sum().backward()
    per_clip = offset[0].numel()
    torch.testing.assert_close(model.offset.grad, 2 * (offset - (given.noise - given.latents)) / per_clip)


@pytest.mark.parametrize("value", [0.0, 7.0, float("inf"), float("nan")])
def test_unreadable_clip_has_no_loss_and_no_gradient_whatever_is_predicted(value: float) -> None:
    given = batch(weight=(1.0, 0.0, 1.0))
    offset = random(*SHAPE, seed=6)
    offset[1] = value
    model = Answer(offset, slope=0.5)
    losses = clip_losses(model, given, 3.0)
    losses.sum().backward()
    assert losses[1] == 0
    assert (losses[[0, 2]] > 0).all()
    assert model.offset.grad is not None
    assert model.slope.grad is not None
    assert (model.offset.grad[1] == 0).all()
    assert (model.offset.grad[[0, 2]] != 0).all()
    assert model.slope.grad.isfinite()
    alone = Answer(offset.nan_to_num(0, 0, 0), slope=0.5)
    (clip_losses(alone, given, 3.0) * torch.tensor([1.0, 0.0, 1.0])).sum().backward()
    torch.testing.assert_close(model.slope.grad, alone.slope.grad)
