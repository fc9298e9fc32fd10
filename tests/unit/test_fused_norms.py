"""The fast form's norms and rotary positions: torch's in float64, and autograd through them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ray_s2v.model.fused.norms import (
    by_segment,
    layer_norm,
    layer_norm_pullback,
    rms_norm,
    rms_norm_pullback,
    rotated,
)  # fmt: skip

BATCH, TOKENS, DIM = 2, 7, 24
EPS = 0.05  # large enough to be seen
EXACT = {"atol": 2e-6, "rtol": 1e-5}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hidden() -> Tensor:
    """Rows of very different sizes, none with a mean of zero."""
    return normal(BATCH, TOKENS, DIM) * torch.logspace(-2, 1, TOKENS)[:, None] + 0.3


def gradient(function: Callable[[Tensor], Tensor], at: Tensor, grad: Tensor) -> Tensor:
    """The pullback of `grad` by autograd, in float64."""
    at = at.double().requires_grad_()
    return torch.autograd.grad(function(at), at, grad.double())[0].float()


@pytest.mark.parametrize("shape", [(BATCH, TOKENS, DIM), (BATCH, 1, DIM), (DIM,)], ids=["tokens", "rows", "all"])
def test_layer_norm(shape: tuple[int, ...]) -> None:
    scale, shift, grad = 1 + normal(*shape, seed=1), normal(*shape, seed=2), normal(BATCH, TOKENS, DIM, seed=3)

    def exact(x: Tensor) -> Tensor:
        return F.layer_norm(x, (DIM,), eps=EPS) * scale.double() + shift.double()

    torch.testing.assert_close(layer_norm(hidden(), scale, shift, EPS), exact(hidden().double()).float(), **EXACT)
    torch.testing.assert_close(layer_norm_pullback(grad, hidden(), scale, EPS), gradient(exact, hidden(), grad), **EXACT)


def test_rms_norm() -> None:
    weight, grad = 1 + normal(DIM, seed=1), normal(BATCH, TOKENS, DIM, seed=3)

    def exact(x: Tensor) -> Tensor:
        return F.rms_norm(x, (DIM,), weight.double(), EPS)

    torch.testing.assert_close(rms_norm(hidden(), weight, EPS), exact(hidden().double()).float(), **EXACT)
    torch.testing.assert_close(rms_norm_pullback(grad, hidden(), weight, EPS), gradient(exact, hidden(), grad), **EXACT)


def test_norms_of_bfloat16_are_those_of_the_same_numbers_in_float32() -> None:
    x, grad, weight = hidden().bfloat16(), normal(BATCH, TOKENS, DIM, seed=3).bfloat16(), normal(DIM, seed=1).bfloat16()
    shift = normal(DIM, seed=2)
    for half, full in (
        (rms_norm(x, weight, EPS), rms_norm(x.float(), weight.float(), EPS)),
        (rms_norm_pullback(grad, x, weight, EPS), rms_norm_pullback(grad.float(), x.float(), weight.float(), EPS)),
        (layer_norm(x, shift, shift, EPS), layer_norm(x.float(), shift, shift, EPS)),
        (layer_norm_pullback(grad, x, shift, EPS), layer_norm_pullback(grad.float(), x.float(), shift, EPS)),
    ):
        assert half.dtype == torch.float32
        assert torch.equal(half, full)


def test_rotation_multiplies_by_complex_units() -> None:
    heads, angles = normal(BATCH, TOKENS, 3, 8), 3 * normal(TOKENS, 4, seed=1)

    def exact(x: Tensor) -> Tensor:
        units = torch.exp(1j * angles.double())[None, :, None]
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * units).flatten(-2)

    grad = normal(BATCH, TOKENS, 3, 8, seed=2)
    torch.testing.assert_close(rotated(heads, angles.cos(), angles.sin()), exact(heads.double()).float(), **EXACT)
    torch.testing.assert_close(rotated(grad, angles.cos(), -angles.sin()), gradient(exact, heads, grad), **EXACT)


def test_each_token_has_its_segments_column() -> None:
    values, noisy = normal(BATCH, 2, DIM), torch.arange(TOKENS) < 3
    found = by_segment(values, noisy)
    expected = torch.stack([values[:, 0]] * 3 + [values[:, 1]] * (TOKENS - 3), dim=1)
    assert torch.equal(found, expected)
