"""How many actors of an encoder a cluster's GPUs have room for."""

from typing import Any

from ray_s2v.config.job import Encoder
from ray_s2v.data.encode import room_for

NODES: list[dict[str, Any]] = [
    {"Alive": True, "Resources": {"CPU": 8.0}},
    {"Alive": True, "Resources": {"GPU": 2.0, "accelerator_type:L4": 1.0}},
    {"Alive": True, "Resources": {"GPU": 4.0, "accelerator_type:L40S": 1.0}},
    {"Alive": False, "Resources": {"GPU": 8.0, "accelerator_type:L4": 1.0}},
]


def encoder(gpus: float, kind: str | None) -> Encoder:
    return Encoder.model_validate({"path": "vae", "gpus": gpus, "accelerator_type": kind})


def test_gpus_of_its_kind_on_nodes_that_live() -> None:
    assert room_for(encoder(0.5, None), NODES) == 12
    assert room_for(encoder(0.5, "L4"), NODES) == 4
    assert room_for(encoder(0.5, "H100"), NODES) == 0
    assert room_for(encoder(0, None), NODES) == 0


def test_no_actor_has_parts_of_two_gpus() -> None:
    assert room_for(encoder(0.4, "L4"), NODES) == 4
    assert room_for(encoder(1, None), NODES) == 6
