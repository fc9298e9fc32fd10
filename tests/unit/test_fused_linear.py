"""The fast form's linear layers: weights in eight bits to the rounding that their formats have, LoRA, and their pullbacks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ray_s2v.model.fused.linear import Linear, Lora, lora_gradients, project, project_pullback
from ray_s2v.model.fused.precision import BasePrecision, narrow, narrow_layers
from ray_s2v.model.fused.quantize import FLOAT8, dequantized, float8_product, int8_weight, quantized_rows
from ray_s2v.model.lora import lora_config, with_lora
from tests.tiny import TINY, tiny_network

CPU = torch.device("cpu")
TOKENS, IN = 40, 384
LARGEST = torch.finfo(FLOAT8).max
ROUNDING = 2**-4  # of a float8 with three bits behind the point, relative
STEP = 2**-9  # between the smallest float8 numbers


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uneven(*shape: int, seed: int) -> Tensor:
    """Rows and columns of very different sizes."""
    return normal(*shape, seed=seed) * torch.logspace(-3, 1, shape[0])[:, None] * torch.logspace(-1, 1, shape[1])


def agree(found: Tensor, expected: Tensor) -> bool:
    """To float32's rounding, each row by its own size."""
    return bool(((found - expected).norm(dim=-1) <= 2e-6 * expected.norm(dim=-1)).all())


def float8_error(x: Tensor) -> Tensor:
    """The most by which a row-scaled float8 may miss each number of x."""
    row = x.abs().amax(-1, keepdim=True) / LARGEST
    return 1.0001 * torch.maximum(ROUNDING * x.abs(), STEP / 2 * row)


@pytest.mark.parametrize(("columns", "group"), [(384, 128), (128, 128), (24, 8), (192, 64), (7, 1)])
def test_int8_is_within_half_a_step_of_each_group(columns: int, group: int) -> None:
    weight = uneven(11, columns, seed=0)
    weight[3] = 0
    narrowed, scales = int8_weight(weight)
    assert (narrowed.dtype, scales.shape) == (torch.int8, (11, columns // group))
    groups = weight.unflatten(1, (-1, group))
    steps = (groups.abs().amax(-1, keepdim=True) / 127).expand_as(groups).flatten(1)
    found = dequantized(narrowed, scales, torch.float32)
    assert ((found - weight).abs() <= 0.50001 * steps).all()
    is_largest = (groups.abs() == groups.abs().amax(-1, keepdim=True)).flatten(1)
    torch.testing.assert_close(found[is_largest], weight[is_largest], atol=0.0, rtol=1e-6)
    assert not found[3].any()


def test_int8_of_a_bfloat16_weight_comes_back_in_bfloat16() -> None:
    weight = uneven(11, 128, seed=0).bfloat16()
    narrowed, scales = int8_weight(weight)
    assert torch.equal(dequantized(narrowed, scales, torch.bfloat16), dequantized(*int8_weight(weight.float()), torch.float32).bfloat16())


def test_float8_rows_fill_the_range() -> None:
    x = uneven(TOKENS, IN, seed=0)
    x[3] = 0
    rows, scales = quantized_rows(x)
    assert (rows.dtype, scales.dtype, scales.shape) == (FLOAT8, torch.float32, (TOKENS, 1))
    largest = rows.float().abs().amax(-1)
    assert (largest == torch.where(torch.arange(TOKENS) == 3, 0.0, LARGEST)).all()
    assert ((rows.float() * scales - x).abs() <= float8_error(x)).all()


def test_float8_product_is_that_of_the_numbers_it_stands_for() -> None:
    (x, x_scales), (weight, scales) = quantized_rows(uneven(TOKENS, IN, seed=0)), quantized_rows(uneven(50, IN, seed=1))
    expected = (x.double() * x_scales.double()) @ (weight.double() * scales.double()).t()
    found = float8_product(x, x_scales, weight, scales, torch.float32)
    assert agree(found, expected)


def linear(out: int, rank: int, form: str, seed: int) -> tuple[Linear, Tensor]:
    """A layer, with LoRA if it has a rank, and the weight that it stands for."""
    weight, bias = normal(out, IN, seed=seed) / IN**0.5 * torch.logspace(-1, 1, out)[:, None], normal(out, seed=seed + 1)
    lora = Lora(normal(rank, IN, seed=seed + 2) / IN**0.5, normal(out, rank, seed=seed + 3), 0.5 + rank) if rank else None
    if form == "as it is":
        return Linear(weight, bias, None, lora), weight
    narrowed, scales = (int8_weight if form == "int8" else quantized_rows)(weight)
    return Linear(narrowed, bias, scales, lora), dequantized(narrowed, scales, torch.float32)


def layers(form: str) -> tuple[list[Linear], list[Tensor]]:
    """Layers that share an input: of other sizes, with LoRA of other ranks, and without."""
    made = [linear(96, 4, form, 10), linear(48, 0, form, 20), linear(32, 2, form, 30)]
    return [layer for layer, _ in made], [weight for _, weight in made]


def exactly(x: Tensor, linears: list[Linear], weights: list[Tensor], factors: list[Tensor]) -> list[Tensor]:
    """The outputs in float64. factors: `down` and `up` of each LoRA."""
    rest = iter(factors)
    outputs = []
    for layer, weight in zip(linears, weights, strict=True):
        out = F.linear(x, weight.double(), layer.bias.double())
        if layer.lora:
            down, up = next(rest), next(rest)
            out = out + layer.lora.scale * (x @ down.t() @ up.t())
        outputs.append(out)
    return outputs


def factors_of(linears: list[Linear]) -> list[Tensor]:
    return [factor.double().requires_grad_() for layer in linears if layer.lora for factor in (layer.lora.down, layer.lora.up)]


@pytest.mark.parametrize("form", ["as it is", "int8"])
def test_project_and_its_pullback(form: str) -> None:
    linears, weights = layers(form)
    x, grads = uneven(TOKENS, IN, seed=0), [uneven(TOKENS, len(weight), seed=5 + i) for i, weight in enumerate(weights)]
    leaf, factors = x.double().requires_grad_(), factors_of(linears)
    outputs = exactly(leaf, linears, weights, factors)
    for found, expected in zip(project(x, linears), outputs, strict=True):
        assert agree(found, expected.detach())
    of_x, *of_factors = torch.autograd.grad(outputs, [leaf, *factors], [grad.double() for grad in grads])
    found_x, found_factors = project_pullback(grads, x, linears)
    for found, expected in zip([found_x, *found_factors], [of_x, *of_factors], strict=True):
        assert found.dtype == torch.float32
        assert agree(found, expected)
    for found, expected in zip(lora_gradients(grads, x, linears), of_factors, strict=True):
        assert agree(found, expected)


def test_float8_project_misses_by_no_more_than_its_input_is_rounded() -> None:
    linears, weights = layers("float8")
    x = uneven(TOKENS, IN, seed=0)
    outputs = exactly(x.double(), linears, weights, factors_of(linears))
    for found, expected, weight in zip(project(x, linears), outputs, weights, strict=True):
        assert ((found - expected).abs() <= float8_error(x) @ weight.abs().t() + 1e-5 * (1 + expected.abs())).all()
        assert (found - expected).norm() > 1e-3 * expected.norm()  # it is rounded, or this tests nothing


def test_float8_pullback_misses_by_no_more_than_the_gradient_is_rounded() -> None:
    linears, weights = layers("float8")
    x, grads = uneven(TOKENS, IN, seed=0), [uneven(TOKENS, len(weight), seed=5 + i) for i, weight in enumerate(weights)]
    leaf, factors = x.double().requires_grad_(), factors_of(linears)
    outputs = exactly(leaf, linears, weights, factors)
    of_x, *of_factors = torch.autograd.grad(outputs, [leaf, *factors], [grad.double() for grad in grads])
    found_x, found_factors = project_pullback(grads, x, linears)
    worst = torch.zeros(TOKENS, IN)
    for layer, grad in zip(linears, grads, strict=True):
        assert layer.scales is not None
        worst += float8_error(grad * layer.scales.t()) @ layer.weight.float().abs()
    assert ((found_x - of_x).abs() <= worst + 1e-5 * of_x.abs()).all()
    for found, expected in zip(found_factors, of_factors, strict=True):  # LoRA's products are not rounded
        assert agree(found, expected)


@pytest.mark.parametrize("form", ["as it is", "int8", "float8"])
def test_products_are_in_the_inputs_dtype_and_gradients_in_float32(form: str) -> None:
    linears, weights = layers(form)
    linears = [layer._replace(bias=layer.bias.bfloat16()) for layer in linears]
    if form == "as it is":
        linears = [layer._replace(weight=layer.weight.bfloat16()) for layer in linears]
    x, grads = normal(TOKENS, IN, seed=0), [normal(TOKENS, len(weight), seed=5 + i) for i, weight in enumerate(weights)]
    half = project(x.bfloat16(), linears)
    assert all(out.dtype == torch.bfloat16 for out in half)
    of_x, of_factors = project_pullback([grad.bfloat16() for grad in grads], x.bfloat16(), linears)
    full, full_factors = project_pullback(grads, x, layers(form)[0])
    for found, expected in zip([*half, of_x, *of_factors], [*project(x, layers(form)[0]), full, *full_factors], strict=True):
        assert (found.float() - expected).norm() <= 0.02 * expected.norm()
    assert {tensor.dtype for tensor in (of_x, *of_factors)} == {torch.float32}


def test_layers_without_lora_have_no_lora_gradients() -> None:
    plain, weight = linear(48, 0, "as it is", 20)
    x, grad = normal(TOKENS, IN, seed=0), normal(TOKENS, 48, seed=1)
    of_x, of_factors = project_pullback([grad], x, (plain,))
    assert of_factors == [] == lora_gradients([grad], x, (plain,))
    assert agree(of_x, grad.double() @ weight.double())


@pytest.mark.parametrize(("precision", "dtype"), [("int8", torch.int8), ("fp8", FLOAT8)])
def test_narrowed_layers_hold_eight_bits_and_their_adapters_float32(precision: BasePrecision, dtype: torch.dtype) -> None:
    network: Any = tiny_network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    chosen = list(narrow_layers(network))
    assert len(chosen) == 10 * TINY["num_layers"] + 4 * len(TINY["audio_inject_layers"])
    for layer in chosen:
        narrow(layer, precision, CPU, CPU)
    adapted = with_lora(network, lora_config(4, 8, 0.0, ["to_q", "net.2"], "all"), seed=1)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    for name, parameter in network.named_parameters():
        if parameter.dtype == dtype:
            weight = before[name.replace(".base_layer.", ".")]
            scales = network.get_submodule(name.removesuffix(".weight")).scales
            close = 2**-4 if precision == "fp8" else 0.5 / 127
            assert ((dequantized(parameter, scales, torch.float32) - weight).abs() <= 1.001 * close * weight.abs().amax()).all()
    assert sum(parameter.dtype == dtype for parameter in network.parameters()) == len(chosen)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_wide_precisions_leave_the_layer(precision: BasePrecision) -> None:
    layer = torch.nn.Linear(8, 8)
    weight = layer.weight
    narrow(layer, precision, CPU, CPU)
    assert layer.weight is weight
    assert not hasattr(layer, "scales")


def test_float8_gradients_far_below_one_are_no_zeros() -> None:
    """The loss is a mean over millions of numbers: gradients of 1e-10 and less are ordinary, and rows far from it have less."""
    layer, weight = linear(96, 0, "float8", seed=20)
    for size in (1.0, 1e-12, 1e-20):
        grad = size * normal(7, 96, seed=21)
        found, _ = project_pullback([grad], normal(7, IN, seed=22), (layer,))
        expected = grad.double() @ weight.double()
        assert (found.double() - expected).norm() / expected.norm() < 0.1, size
