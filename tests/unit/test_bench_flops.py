"""Operations of a step, against the table of wan_s2v 15 and torch's counter."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ray_s2v.benchmark.flops import forward_flops
from ray_s2v.benchmark.synthetic import synthetic_batch
from ray_s2v.model.flow import clip_losses
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.model.tread import Route
from ray_s2v.schema import Bucket
from tests.tiny import TINY

# Frames, continuation, then TF: linear, of it self, text, feed-forward and injector, attention, of it self; PF of all.
WIDE = [
    (84, False, 864.2, 287.9, 146.1, 388.7, 41.4, 979.3, 964.9, 1.844),
    (84, True, 919.5, 307.3, 155.8, 414.9, 41.4, 1114.8, 1099.4, 2.034),
    (80, False, 824.9, 274.8, 139.6, 371.0, 39.4, 893.0, 879.2, 1.718),
    (80, True, 880.3, 294.2, 149.3, 397.2, 39.4, 1022.5, 1007.8, 1.903),
    (76, False, 785.7, 261.7, 133.0, 353.3, 37.4, 810.6, 797.4, 1.596),
    (76, True, 841.0, 281.1, 142.7, 379.5, 37.4, 934.2, 920.1, 1.775),
]
OTHER_SIZES = [
    (832, 448, 1.549, 1.715),
    (1024, 704, 4.377, 4.903),
    (1280, 720, 6.614, 7.432),
    (640, 640, 1.785, 1.980),
    (448, 256, 0.315, 0.342),
]


@pytest.fixture(scope="module")
def config() -> Any:
    with torch.device("meta"):
        return WanS2VTransformer3DModel().config


@pytest.mark.parametrize("row", WIDE)
def test_the_14b_at_832x480(config: Any, row: tuple[Any, ...]) -> None:
    frames, has_motion, *expected, total = row
    flops = forward_flops(config, Bucket(832, 480, frames), 1, has_motion)
    linear = [flops.linear, flops.of_self, flops.of_text, flops.feed_forward, flops.injection]
    found = [part / 1e12 for part in (*linear, flops.attention, flops.self_attention)]
    assert found[1:] == pytest.approx(expected[1:], abs=0.051)  # the table has one digit
    assert (flops.linear - flops.rest) / 1e12 + 0.16 == pytest.approx(expected[0], abs=0.051)  # and takes 0.16 for the rest everywhere
    assert (flops.linear + flops.attention) / 1e15 == pytest.approx(total, abs=0.00051)
    assert flops.rest / 1e12 == pytest.approx(0.16, abs=0.03)


@pytest.mark.parametrize(("width", "height", "first", "continuation"), OTHER_SIZES)
def test_the_14b_at_other_sizes(config: Any, width: int, height: int, first: float, continuation: float) -> None:
    for has_motion, expected in ((False, first), (True, continuation)):
        flops = forward_flops(config, Bucket(width, height, 80), 1, has_motion)
        assert (flops.linear + flops.attention) / 1e15 == pytest.approx(expected, abs=0.00051)


@pytest.mark.parametrize(
    ("frames", "ms", "rate"),
    [(76, 13282, 301), (76, 9508, 421), (80, 14807, 292), (80, 10070, 430)],
)
def test_counts_as_the_measured_table(config: Any, frames: int, ms: int, rate: int) -> None:
    assert forward_flops(config, Bucket(832, 480, frames), 1, False).step / 1e9 / ms == pytest.approx(rate, abs=0.7)


@pytest.mark.parametrize("has_motion", [False, True])
@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("routes", [[], [Route(0.5, 1, 1), Route(0.3, 2, 2)]])
def test_every_product_is_counted(clips: int, has_motion: bool, routes: list[Route]) -> None:
    network = WanS2VTransformer3DModel(**TINY)
    bucket = Bucket(112, 80, 12)
    batch = synthetic_batch(network.config, bucket, clips, has_motion, 0, torch.device("cpu"))
    # The counter does not know the CPU's own attention.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        clip_losses(network, batch, 3.0, routes)
    flops = forward_flops(network.config, bucket, clips, has_motion, routes)
    assert counter.get_total_flops() == flops.linear + flops.attention
