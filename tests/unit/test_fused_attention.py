"""The fast form's attention against softmax written out in float64, and autograd through that."""

import pytest
import torch
from torch import Tensor

from ray_s2v.model.fused.attention import attention, attention_pullback

BATCH, HEADS, HEAD_DIM = 2, 3, 12
# Tokens that ask and tokens that answer: one's own, a text longer than a kernel's tile, the five of a frame's sound, one alone.
LENGTHS = [(70, 70), (33, 600), (100, 5), (9, 1)]
EXACT = {"atol": 2e-6, "rtol": 1e-5}


def inputs(tokens: int, others: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value, sharp enough that rows differ, and a gradient of the output; laid out as the layers leave them."""
    generator = torch.Generator().manual_seed(tokens)
    query, key, value, grad = (
        torch.randn(BATCH * length, HEADS * HEAD_DIM, generator=generator).view(BATCH, length, HEADS, HEAD_DIM)
        for length in (tokens, others, others, tokens)
    )
    return 2 * query, key, value, grad


def exact(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / HEAD_DIM**0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value), scores.logsumexp(-1)


@pytest.mark.parametrize(("tokens", "others"), LENGTHS)
def test_attention(tokens: int, others: int) -> None:
    *given, _ = inputs(tokens, others)
    out, lse = attention(*given, "cpu")
    expected, expected_lse = exact(*(tensor.double() for tensor in given))
    torch.testing.assert_close(out, expected.float(), **EXACT)
    torch.testing.assert_close(lse, expected_lse.float(), **EXACT)


@pytest.mark.parametrize(("tokens", "others"), LENGTHS)
def test_pullback(tokens: int, others: int) -> None:
    *given, grad = inputs(tokens, others)
    found = attention_pullback(grad, *given, *attention(*given, "cpu"), "cpu")
    leaves = [tensor.double().requires_grad_() for tensor in given]
    expected = torch.autograd.grad(exact(*leaves)[0], leaves, grad.double())
    for gradient, exactly, tensor in zip(found, expected, given, strict=True):
        assert gradient.shape == tensor.shape
        torch.testing.assert_close(gradient, exactly.float(), **EXACT)


def test_pullback_takes_a_gradient_that_another_layout_has() -> None:
    *given, grad = inputs(20, 11)
    kept = attention(*given, "cpu")
    other = grad.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    for found, expected in zip(
        attention_pullback(other, *given, *kept, "cpu"), attention_pullback(grad, *given, *kept, "cpu"), strict=True
    ):
        torch.testing.assert_close(found, expected)
