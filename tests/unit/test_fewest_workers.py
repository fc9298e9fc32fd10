"""Elastic workers under ZeRO-3: the fewest must be able to hold the network's shards among them."""

import math

import pytest
import torch

from ray_s2v.model.fused.memory import Room
from ray_s2v.model.lora import with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Bucket, ConfigError
from ray_s2v.training.arrangement import arrangement_for, check_fewest
from ray_s2v.training.network import job_lora
from tests.plans import job

LARGEST = Bucket(832, 480, 80)
ROOM = Room(30.0, math.inf, 8)  # the 14B's blocks alone take 24 GiB


@pytest.fixture(scope="module")
def outline():
    with torch.device("meta"):
        return with_lora(WanS2VTransformer3DModel(), job_lora(job()), 0)


def of(workers: object, stage: int = 3):
    base = job(slots=8, workers=workers)
    return base.model_copy(update={"zero": base.zero.model_copy(update={"stage": stage})})


def test_too_few_are_refused_before_they_are_met(outline) -> None:
    elastic = of({"min": 1, "max": 8})
    arrangement_for(elastic, outline, ROOM, LARGEST, 8)
    with pytest.raises(ConfigError, match=r"^training\.workers\.min 1: of so few workers each would have too large a shard: "):
        check_fewest(elastic, outline, ROOM, LARGEST)


def test_enough_of_them_pass_and_so_does_all_that_does_not_shard(outline) -> None:
    check_fewest(of({"min": 4, "max": 8}), outline, ROOM, LARGEST)
    check_fewest(of({"min": 1, "max": 8}, stage=2), outline, ROOM, LARGEST)
    check_fewest(of(8), outline, ROOM, LARGEST)
    check_fewest(of({"min": 1, "max": 8}), outline, None, LARGEST)
