"""How many trials fit side by side."""

import pytest

from ray_s2v.cluster.capacity import Asked
from ray_s2v.cluster.supply import Growth, Node, NodeType, Supply
from ray_s2v.config.sweep import Sweep
from ray_s2v.schema import ConfigError
from ray_s2v.tuning.room import share_rows, trials_at_once


def asked(workers: int, cpus: float, gpus: float = 0, decode: float = 0.25, kind: str | None = None) -> list[Asked]:
    return [
        Asked("worker", "training.workers", "training.worker_", workers, cpus, gpus, kind),
        Asked("decoder", "data.decode_cpus", "data.decode_", 1, decode),
    ]


def up(*nodes: tuple[float, float]) -> Supply:
    return Supply(tuple(Node("", {"CPU": cpus, "GPU": gpus}) for cpus, gpus in nodes), Growth())


@pytest.mark.parametrize(
    ("one", "there", "most", "trials"),
    [
        (asked(2, 0.5), up((2, 0)), 10, 1),  # 1.25 CPUs each
        (asked(1, 0.5), up((2, 0)), 10, 2),  # 0.75
        (asked(1, 0.5), up((2, 0)), 1, 1),
        (asked(2, 1, 1), up((16, 8)), 10, 4),  # by the GPUs
        (asked(2, 1, 1), up((16, 3)), 10, 1),
        (asked(2, 4, 1, decode=4), up((12, 8)), 10, 1),  # by the CPUs
        (asked(1, 2, decode=1), up((2, 0), (2, 0), (1, 0)), 10, 1),  # 5 CPUs would be 3 each for one, but lie so that two need a third
        (asked(1, 1, 0.6), up((8, 4)), 10, 4),  # shares of one GPU lie on one
        (asked(1, 1, 0.5), up((10, 4)), 10, 8),
        (asked(1, 1, 0.5), up((8, 4)), 10, 6),
    ],
)
def test_by_what_is_up(one: list[Asked], there: Supply, most: int, trials: int) -> None:
    assert trials_at_once(one, there, most) == trials


def test_by_what_may_be_added() -> None:
    types = (NodeType("gpu", {"CPU": 8, "GPU": 4}, 3), NodeType("cpu", {"CPU": 16}, 10))
    head = Node("", {"CPU": 2})
    assert trials_at_once(asked(2, 2, 1, decode=1), Supply((head,), Growth(types, 13)), 100) == 6  # 12 GPUs
    assert trials_at_once(asked(2, 2, 1, decode=1), Supply((head,), Growth(types, 1)), 100) == 2  # both decoders on the head
    one_up = Supply((head, Node("gpu", {"CPU": 8, "GPU": 4})), Growth(types, 2))
    assert trials_at_once(asked(2, 2, 1, decode=1), one_up, 100) == 3  # by 18 CPUs on the head and two nodes, of which one is up


def test_types_of_unknown_size_are_not_counted_on() -> None:
    own = Supply((Node("", {"CPU": 2}),), Growth((NodeType("own", {}, 4),), 4))
    assert trials_at_once(asked(2, 2, 1), own, 100) == 1


def test_one_that_has_no_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 workers want"):
        trials_at_once(asked(2, 2), up((2, 0)), 4)


@pytest.mark.parametrize(
    ("key", "shared"),
    [
        ("training.learning_rate", True),
        ("tread.routes.0.selection_ratio", True),
        ("training.workers", True),
        ("training.global_batch", False),
        ("training.continuation", False),
        ("dropout.text", False),
        ("run.seed", False),
        ("data.sources.0.window", False),
    ],
)
def test_trials_share_their_features_where_they_see_the_same_rows(key: str, shared: bool) -> None:
    space = {"lora.rank": {"values": [4, 8]}, key: {"values": [1, 2]}}
    assert share_rows(Sweep.model_validate({"folder": "f", "job": "j.yaml", "search": "grid", "space": space})) == shared
