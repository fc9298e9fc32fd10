"""What a job is told that no cluster of these nodes can give room to, and what it is told to wait for."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from ray_s2v.cluster.capacity import Asked, check, for_encoding, for_training
from ray_s2v.cluster.supply import Growth, Node, NodeType, Resources, Supply, growth_of, type_of
from ray_s2v.cluster.waiting import Waiting, lacks, waits_for
from ray_s2v.config.job import Job
from ray_s2v.schema import ConfigError
from tests.jobs import changed

# Two workers of 1.5 CPUs and a GPU; encoders of 1, 2 x 0.5 and 0.25 CPUs and 0.5, 2 x 0.25 and 0 GPUs at least; 0.75 CPUs to decode.
ASKS: dict[str, Any] = {
    "training.workers": 2,
    "training.worker_cpus": 1.5,
    "training.worker_gpus": 1,
    "data.decode_cpus": 0.75,
    "encoders.vae.actors": {"min": 1, "max": 9},
    "encoders.vae.cpus": 1,
    "encoders.vae.gpus": 0.5,
    "encoders.speech.actors": 2,
    "encoders.speech.cpus": 0.5,
    "encoders.speech.gpus": 0.25,
    "encoders.text.cpus": 0.25,
}
NEEDED: dict[str, dict[str, float]] = {
    "training": {"CPU": 3.75, "GPU": 2},
    "training with encoders": {"CPU": 6, "GPU": 3},
    "video": {"CPU": 1.75, "GPU": 1},
    "speech": {"CPU": 1.75, "GPU": 1},
    "text": {"CPU": 1},
}
L40S = {"CPU": 8, "GPU": 1, "accelerator_type:L40S": 1}
FOUR_L40S = {"CPU": 32, "GPU": 4, "accelerator_type:L40S": 1}
L4 = {"CPU": 4, "GPU": 1, "accelerator_type:L4": 1}
HEAD = {"CPU": 2.0, "node:__internal_head__": 1.0, "node:10.0.0.7": 1.0, "memory": 1e9}


def job(**changes: Any) -> Job:
    return Job.model_validate(changed(ASKS | {key.replace("__", "."): value for key, value in changes.items()}))


def workers(number: int, kind: str | None = "L40S", cpus: float = 1, gpus: float = 1) -> list[Asked]:
    return [Asked("worker", "training.workers", "training.worker_", number, cpus, gpus, kind)]


def asked(what: str, given: Job) -> list[Asked]:
    return for_encoding(given, what) if what in ("video", "speech", "text") else for_training(given, what == "training with encoders")


def cluster(*up: Resources | tuple[str, Resources], types: tuple[NodeType, ...] = (), most: int | None = None) -> Supply:
    nodes = [node if isinstance(node, tuple) else ("", node) for node in up]
    return Supply(tuple(Node(*node) for node in nodes), Growth(types, sum(kind.most for kind in types) if most is None else most))


def refusal(asks: list[Asked], there: Supply) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(asks, there)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("what", NEEDED)
def test_node_that_is_just_large_enough_will_do(what: str) -> None:
    asks = asked(what, job())
    check(asks, cluster(NEEDED[what]))
    assert lacks(asks, cluster(NEEDED[what]).up) == []


@pytest.mark.parametrize(("what", "short"), [(what, name) for what in NEEDED for name in NEEDED[what]])
def test_what_is_short_of_the_whole_is_told(what: str, short: str) -> None:
    needed = NEEDED[what]
    given = {"CPU": needed["CPU"] - 0.25, "GPU": needed.get("GPU", 0) - 1}[short]
    told = refusal(asked(what, job()), cluster(needed | {short: given}))[0]
    assert f"the cluster has {given:g}" in told or "the cluster has room for" in told or told.endswith("the cluster has none")
    assert told.count("the cluster has") == 1, "of the other there is enough"


def test_all_that_asks_is_told_where_each_alone_has_room() -> None:
    assert refusal(for_training(job(), with_encoders=True), cluster({"CPU": 4.0, "GPU": 2.0})) == [
        "the job needs 6 CPUs (the cluster has 4) and 3 GPUs (the cluster has 2): "
        "2 workers want 1.5 CPUs and one GPU each (training.workers); 1 decoder wants 0.75 CPUs (data.decode_cpus); "
        "1 vae encoder wants 1 CPU and 0.5 of one GPU (encoders.vae.actors); "
        "2 speech encoders want 0.5 CPUs and 0.25 of one GPU each (encoders.speech.actors); "
        "1 text encoder wants 0.25 CPUs (encoders.text.actors). Lower some of these, or give Ray more",
        "The cluster:",
        "  1 node of 4 CPUs, 2 GPUs",
    ]


def test_sentence_of_an_impossible_job() -> None:
    there = cluster(HEAD, ("gpu", L40S), ("gpu", L40S), types=(NodeType("head", {"CPU": 2}, 0), NodeType("gpu", L40S, 6)))
    check(workers(6), there)
    assert refusal(workers(8), there) == [
        "8 workers want one L40S each (training.workers, training.accelerator_type); the cluster can grow to 6",
        "The cluster:",
        "  1 node of 2 CPUs",
        "  gpu nodes of 8 CPUs, 1 GPU, L40S (2 up, at most 6)",
    ]


@pytest.mark.parametrize(
    ("number", "there"),
    [
        (3, cluster(L40S, FOUR_L40S | {"GPU": 2}, L4)),
        (7, cluster(HEAD | {"GPU": 1, "accelerator_type:L40S": 1}, types=(NodeType("gpu", L40S, 6),))),  # the head's too
        (6, cluster(HEAD, types=(NodeType("one", L40S, 2), NodeType("four", FOUR_L40S, 1), NodeType("cheap", L4, 9)))),
        (5, cluster(HEAD, types=(NodeType("one", L40S, 2), NodeType("four", FOUR_L40S, 1)), most=2)),  # the best two
        (5, cluster(HEAD, ("one", L40S), types=(NodeType("one", L40S, 2), NodeType("four", FOUR_L40S, 1)), most=2)),
        (2, cluster(HEAD, ("one", L40S), ("one", L40S), types=(NodeType("one", L40S, 2), NodeType("four", FOUR_L40S, 1)), most=2)),
        (6, cluster(HEAD, ("gpu", L40S), ("gpu", L40S), types=(NodeType("gpu", L40S, 6), NodeType("cheap", L4, 9)))),
        (4, cluster(HEAD, L40S, ("one", L40S), types=(NodeType("one", L40S, 3),))),  # one that no autoscaler has started
    ],
)
def test_nodes_of_all_types_are_counted_each_once(number: int, there: Supply) -> None:
    check(workers(number), there)
    (told, *_) = refusal(workers(number + 1), there)
    assert told.endswith(f"; the cluster {'can grow to' if there.growth.types else 'has'} {number}")


def test_what_one_runs_with_has_to_be_on_one_node() -> None:
    there = cluster(types=(NodeType("gpu", L40S, 10),))
    check(workers(10, cpus=8), there)
    assert refusal(workers(2, cpus=9), there)[0] == (
        "2 workers want 9 CPUs and one L40S each (training.workers, training.accelerator_type, training.worker_cpus); "
        "the cluster can grow to none"
    )
    assert refusal(workers(2, None, cpus=9, gpus=0), cluster({"CPU": 17}))[0] == (
        "2 workers want 9 CPUs each (training.workers, training.worker_cpus); the cluster has room for 1"
    )


@pytest.mark.parametrize(("share", "on_one"), [(0.6, 1), (0.5, 2), (1 / 3, 3), (0.3, 3), (0.1, 10)])
def test_fraction_of_a_gpu_is_of_one_gpu(share: float, on_one: int) -> None:
    four = cluster({"CPU": 99, "GPU": 4})
    check(workers(4 * on_one, None, gpus=share), four)
    assert lacks(workers(4 * on_one, None, gpus=share), four.up) == []
    (told, *_) = refusal(workers(4 * on_one + 1, None, gpus=share), four)
    assert told.endswith(f" of one GPU each (training.workers, training.worker_gpus); the cluster has room for {4 * on_one}")


@pytest.mark.parametrize("setting", ["training.accelerator_type", "encoders.vae.accelerator_type", "encoders.text.accelerator_type"])
def test_kind_that_no_node_has(setting: str) -> None:
    asks = for_training(job(**{setting: "H100"}), with_encoders=True)
    assert refusal(asks, cluster(FOUR_L40S))[0] == f"{setting} is H100, of which the cluster has none"
    grows = cluster(HEAD, types=(NodeType("gpu", FOUR_L40S, 2),))
    assert refusal(asks, grows)[0] == (
        f"{setting} is H100, of which the cluster has none and can get none: no node type's resources name accelerator_type:H100"
    )


def test_encoders_of_a_job_whose_features_are_stored_ask_for_nothing() -> None:
    given = job(encoders__vae__accelerator_type="H100")
    check(for_training(given, with_encoders=False), cluster(NEEDED["training"]))


def test_gpus_of_other_kinds_do_not_help() -> None:
    asks = [*workers(6), Asked("vae encoder", "encoders.vae.actors", "encoders.vae.", 1, 1, 0.5, "L40S")]
    there = cluster(types=(NodeType("gpu", L40S, 6), NodeType("cheap", L4, 9)))
    assert refusal(asks, there)[0].startswith("the job needs 6.5 GPUs on nodes with L40S (the cluster can grow to 6): 6 workers want ")
    check([asks[0], asks[1]._replace(kind="L4")], there)


def test_nodes_whose_size_is_not_known_may_hold_anything_until_they_are_up() -> None:
    """Ray's provider for machines of one's own lists them without their resources."""
    machines = NodeType("local.cluster.node", {}, 2)
    coming = cluster(HEAD, ("local.cluster.node", L4), types=(machines,))
    check(workers(1), coming)
    assert waits_for(lacks(workers(1), coming.up), coming) == (
        "waiting for local.cluster.node nodes of a size that Ray learns when one is up (1 up, at most 2) for 1 worker"
    )
    assert len(refusal(workers(1), cluster(HEAD, ("local.cluster.node", L4), ("local.cluster.node", L4), types=(machines,)))) == 4


def test_rounding_of_fractions_asks_for_no_more_than_there_is() -> None:
    """Three tenths are 0.30000000000000004."""
    assert 3 * 0.1 > 0.3
    asks = workers(3, None, cpus=0.1, gpus=0)
    check(asks, cluster({"CPU": 0.3}))
    assert lacks(asks, cluster({"CPU": 0.3}).up) == []


def test_line_of_what_is_waited_for() -> None:
    types = (NodeType("gpu", L40S, 6), NodeType("spot", L40S, 2), NodeType("cheap", L4 | {"GPU": 0}, 1))
    asks = [*workers(3), Asked("decoder", "", "", 1, 4), Asked("vae encoder", "", "", 2, 1, 0, "L4")]
    there = cluster(HEAD, types=types)
    assert waits_for(lacks(asks, there.up), there) == (
        "waiting for gpu nodes of 8 CPUs, 1 GPU, L40S (0 up, at most 6) or spot nodes of 8 CPUs, 1 GPU, L40S (0 up, at most 2) "
        "for 3 workers; gpu nodes or spot nodes or cheap nodes of 4 CPUs, L4 (0 up, at most 1) for 1 decoder; "
        "cheap nodes for 2 vae encoders"
    )
    some = cluster(HEAD, ("gpu", L40S), ("gpu", L40S), types=types)
    assert waits_for(lacks(asks, some.up), some) == (
        "waiting for gpu nodes of 8 CPUs, 1 GPU, L40S (2 up, at most 6) or spot nodes of 8 CPUs, 1 GPU, L40S (0 up, at most 2) "
        "for 1 worker; cheap nodes of 4 CPUs, L4 (0 up, at most 1) for 2 vae encoders"
    )
    ready = cluster(HEAD, *[("gpu", L40S)] * 3, ("cheap", L4), types=types)
    assert waits_for(lacks(asks, ready.up), ready) == ""


def test_what_is_waited_for_is_said_when_it_changes() -> None:
    said: list[str] = []
    waiting = Waiting(workers(2), said.append)
    types = (NodeType("gpu", L40S, 2),)
    for up in (0, 0, 1, 2, 2, 1, 2):
        waiting.see(cluster(HEAD, *[("gpu", L40S)] * up, types=types))
    nodes = "waiting for gpu nodes of 8 CPUs, 1 GPU, L40S"
    one_is_lacking = f"{nodes} (1 up, at most 2) for 1 worker"
    assert said == [f"{nodes} (0 up, at most 2) for 2 workers", one_is_lacking, "all nodes are up", one_is_lacking, "all nodes are up"]


def test_too_little_is_refused_only_until_all_was_there() -> None:
    """Ray starts what was lost with a node again, on one that comes or is repaired."""
    with pytest.raises(ConfigError):
        Waiting(workers(2), lambda _: None).see(cluster(HEAD, L40S))
    said: list[str] = []
    waiting = Waiting(workers(2), said.append)
    waiting.see(cluster(HEAD, L40S, L40S))
    waiting.see(cluster(HEAD, L40S))
    assert said == ["no room beside the rest, and no node to add, for 1 worker"]
    waiting.only([])
    waiting.see(cluster(HEAD))
    assert said[1:] == ["all nodes are up"]


def test_the_fullest_node_and_gpu_that_will_do_is_taken() -> None:
    beside = [Asked("vae encoder", "", "", 1, 1, 0.5), Asked("decoder", "", "", 1, 4)]
    assert lacks(beside, cluster({"CPU": 4, "GPU": 1}, {"CPU": 1, "GPU": 1}).up) == []
    shares = [Asked("one", "", "", number, 0, share) for share, number in ((0.6, 1), (0.5, 1), (0.4, 1), (0.25, 2))]
    assert lacks(shares, cluster({"CPU": 1, "GPU": 2}).up) == []


def test_limit_of_all_types_together_is_told() -> None:
    types = (NodeType("gpu", L40S, 2), NodeType("cheap", L4, 3))
    assert refusal(workers(3), cluster(HEAD, types=types, most=4))[-1] == "  of all these types together at most 4"
    assert "together" not in refusal(workers(3), cluster(HEAD, types=types, most=5))[-1]


def test_parts_that_do_not_fit_side_by_side_are_told() -> None:
    asks = [*workers(2, None, gpus=0.6), Asked("vae encoder", "", "", 1, 1, 0.5)]
    there = cluster({"CPU": 9, "GPU": 2})
    check(asks, there)
    assert waits_for(lacks(asks, there.up), there) == "no room beside the rest, and no node to add, for 1 vae encoder"


ONES = draw.builds(
    Asked,
    *[draw.just("one")] * 3,
    number=draw.integers(1, 2),
    cpus=draw.sampled_from([0.5, 1.0, 1.5]),
    gpus=draw.sampled_from([0, 0.25, 0.5, 1.0]),
    kind=draw.sampled_from([None, "A", "B"]),
)
SIZES = draw.fixed_dictionaries(
    {"CPU": draw.sampled_from([1, 2, 3]), "GPU": draw.integers(0, 2)},
    optional={"accelerator_type:A": draw.just(1), "accelerator_type:B": draw.just(1)},
)


def has_room(singles: list[Asked], nodes: list[tuple[Fraction, tuple[Fraction, ...], Resources]]) -> bool:
    """Whether all can be placed, by trying every way."""
    if not singles:
        return True
    one, *rest = singles
    for at, (cpus, gpus, size) in enumerate(nodes):
        if cpus < Fraction(one.cpus) or (one.kind and f"accelerator_type:{one.kind}" not in size):
            continue
        for slot in [slot for slot, free in enumerate(gpus) if free >= Fraction(one.gpus)] if one.gpus else [None]:
            left = tuple(free - Fraction(one.gpus) if index == slot else free for index, free in enumerate(gpus))
            if has_room(rest, [*nodes[:at], (cpus - Fraction(one.cpus), left, size), *nodes[at + 1 :]]):
                return True
    return False


@settings(max_examples=300, deadline=None)
@given(draw.lists(ONES, min_size=1, max_size=3), draw.lists(SIZES, min_size=1, max_size=3), SIZES, draw.integers(0, 2))
def test_a_job_that_has_room_is_not_refused(asks: list[Asked], up: list[Resources], more: Resources, most: int) -> None:
    """Nor told to wait for what it has, unless another order than the largest first is needed."""
    there = cluster(*up, types=(NodeType("more", more, most),))
    singles = [one for one in asks for _ in range(one.number)]
    nodes = [(Fraction(size["CPU"]), (Fraction(1),) * int(size["GPU"]), size) for size in [*up, *[more] * most]]
    if has_room(singles, nodes):
        check(asks, there)
    if not lacks(asks, there.up):
        assert has_room(singles, nodes[: len(up)])


CLUSTER_FILE: dict[str, Any] = {
    "cluster_name": "any",
    "max_workers": 9,
    "provider": {"type": "aws", "region": "us-east-1"},
    "head_node_type": "head",
    "available_node_types": {
        "head": {"node_config": {}, "resources": {"CPU": 4}},
        "gpu": {"node_config": {}, "resources": L40S, "min_workers": 1, "max_workers": 6},
        "any": {"node_config": {}, "resources": {"CPU": 8}},
    },
}


def test_growth_of_a_cluster_file() -> None:
    """What a type does not say is the whole cluster's."""
    assert growth_of(CLUSTER_FILE) == Growth((NodeType("head", {"CPU": 4}, 0), NodeType("gpu", L40S, 6), NodeType("any", {"CPU": 8}, 9)), 9)


def test_growth_of_machines_of_ones_own() -> None:
    file = {"cluster_name": "any", "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]}}
    assert growth_of(file) == Growth((NodeType("local.cluster.node", {}, 2),), 2)


def test_growth_of_a_ray_cluster_on_kubernetes() -> None:
    def group(limits: dict[str, str], **rest: Any) -> dict[str, Any]:
        return {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray", "resources": {"limits": limits}}]}}, **rest}

    gpu = {"groupName": "gpu", "minReplicas": 0, "maxReplicas": 6}
    written = group({"cpu": "8", "nvidia.com/gpu": "1"}, **gpu) | {"rayStartParams": {"resources": '"{\\"accelerator_type:L40S\\": 1}"'}}
    spec = {"headGroupSpec": group({"cpu": "2"}), "workerGroupSpecs": [written]}
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "any", "namespace": "any"}, "spec": spec})
    assert growth_of(config) == Growth((NodeType("headgroup", {"CPU": 2}, 0), NodeType("gpu", L40S, 6)), 6)


@pytest.mark.parametrize(
    ("labels", "resources", "name"),
    [
        ({"ray.io/node-group": "spot"}, L40S, "spot"),
        ({}, L40S | {"node:10.0.0.8": 1.0, "memory": 5.0}, "gpu"),  # the older autoscaler says no types, but sets resources
        ({}, {"CPU": 8.0}, "cpu"),
        ({}, {"CPU": 7.0}, ""),
        ({"ray.io/node-group": "gone"}, {"CPU": 7.0}, ""),
        ({"ray.io/node-group": "cpu"}, HEAD | {"CPU": 8.0}, ""),  # the head
    ],
)
def test_type_of_a_node(labels: dict[str, str], resources: Resources, name: str) -> None:
    types = (NodeType("cpu", {"CPU": 8, "memory": 9}, 2), NodeType("gpu", L40S, 2), NodeType("spot", L40S, 2))
    assert type_of({"Labels": labels, "Resources": resources}, Growth(types, 6), {"gpu": 1}) == name


def test_of_types_alike_one_is_taken_that_there_may_be_more_of() -> None:
    growth = Growth((NodeType("spot", L40S, 2), NodeType("sure", L40S, 2)), 4)
    node = {"Labels": {}, "Resources": L40S}
    assert [type_of(node, growth, {"spot": spot, "sure": sure}) for spot, sure in ((0, 0), (1, 0), (2, 0), (2, 1))] == [
        *("spot", "spot"),
        *("sure", "sure"),
    ]
