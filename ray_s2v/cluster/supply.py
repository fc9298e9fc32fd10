"""What a cluster has, and what its autoscaler may add to it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer
from ray.autoscaler._private.util import prepare_config
from ray.exceptions import RayTaskError

from ray_s2v.schema import ConfigError

Resources = Mapping[str, float]
HEAD = "node:__internal_head__"  # a resource of the head alone
GROUP = "ray.io/node-group"  # the label of a node that says its type: autoscaler v2 and KubeRay set it
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
UNLIMITED = {"memory", "object_store_memory"}  # each node counts its own


class NodeType(NamedTuple):
    """Equal nodes that an autoscaler starts."""

    name: str
    resources: Resources  # of one; none where Ray counts them when it is up, as on machines of one's own
    most: int  # that may be up at a time, the head not counted


class Growth(NamedTuple):
    """What an autoscaler works by; no types where there is none."""

    types: tuple[NodeType, ...] = ()
    most: int = 0  # nodes of all types together


class Node(NamedTuple):
    type: str  # empty where no autoscaler has started it
    resources: Resources


@dataclass(frozen=True)
class Supply:
    """The nodes that are up and those that may be added."""

    up: tuple[Node, ...]
    growth: Growth

    def number_up(self, kind: NodeType) -> int:
        return Counter(node.type for node in self.up)[kind.name]

    def addable(self) -> Iterator[tuple[NodeType, int]]:
        """Types and how many more of each there may be, were it the only one."""
        room = self.growth.most - sum(1 for node in self.up if node.type)
        for kind in self.growth.types:
            if (number := min(kind.most - self.number_up(kind), room)) > 0:
                yield kind, number

    def most(self, amount: Callable[[Resources], float]) -> float:
        """The sum over the nodes that are up and the best of those that may be added; infinite where one's resources are not known."""
        total = sum(amount(node.resources) for node in self.up)
        room = self.growth.most - sum(1 for node in self.up if node.type)
        offers = [(amount(kind.resources) if kind.resources else float("inf"), number) for kind, number in self.addable()]
        for each, number in sorted(offers, reverse=True):
            taken = min(number, room)
            room -= taken
            total += each * taken if taken else 0
        return total


def supply(growth: Growth) -> Supply:
    """The cluster as it is now."""
    nodes: list[Node] = []
    for node in ray.nodes():
        if node["Alive"]:
            nodes.append(Node(type_of(node, growth, Counter(other.type for other in nodes)), node["Resources"]))
    return Supply(tuple(nodes), growth)


def type_of(node: Mapping[str, Any], growth: Growth, others: Mapping[str, int]) -> str:
    """By its label; else, as the autoscaler sets a node's resources, by these. Empty for the head and for nodes of no type.

    others: how many of each type are known. Of types that differ by their price alone, one that there may be more of.
    """
    if HEAD in node["Resources"]:
        return ""
    if (named := node["Labels"].get(GROUP)) in {kind.name for kind in growth.types}:
        return named
    alike = [kind for kind in growth.types if _is_of(kind, node["Resources"])]
    best = min(alike, key=lambda kind: (others.get(kind.name, 0) >= kind.most, -len(kind.resources)), default=None)
    return best.name if best else ""


def _is_of(kind: NodeType, resources: Resources) -> bool:
    return all(resources.get(name, 0) == amount for name, amount in kind.resources.items() if name not in UNLIMITED)


def growth() -> Growth:
    """What the cluster's autoscaler may add. Ray tells it to nobody but the autoscaler, so it is read on the head, where that reads it.

    Raises ConfigError where it cannot be read.
    """
    context = ray.get_runtime_context()
    head = next(node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"])
    port = context.gcs_address.rpartition(":")[2]
    if head["NodeID"] == context.get_node_id():
        return _growth_on_head(port)
    try:
        return ray.get(ray.remote(_growth_on_head).options(num_cpus=0, resources={HEAD: 0.001}).remote(port))
    except RayTaskError as error:
        raise error.cause from error


def _growth_on_head(port: str) -> Growth:
    """`growth`, on the machine where the cluster of that port has its head."""
    try:
        config = _configuration(port)
    except OSError as error:
        raise ConfigError(f"what the cluster's autoscaler may add cannot be read: {error}") from error
    return growth_of(config) if config else Growth()


def _configuration(port: str) -> dict[str, Any] | None:
    for options, folder in _monitors():
        if options["gcs-address"].rpartition(":")[2] == port:
            if "autoscaling-config" not in options:
                return None
            return yaml.safe_load((folder / Path(options["autoscaling-config"]).expanduser()).read_text(encoding="utf-8"))
    # KubeRay's autoscaler is in a container of its own beside the head's, and reads the RayCluster.
    name = os.environ.get("RAY_CLUSTER_NAME")
    return AutoscalingConfigProducer(name, NAMESPACE.read_text(encoding="utf-8").strip())() if name and NAMESPACE.is_file() else None


def _monitors() -> Iterator[tuple[dict[str, str], Path]]:
    """The options of each autoscaler that runs on this machine, and its folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parts = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(part.endswith(("/autoscaler/_private/monitor.py", "/autoscaler/v2/monitor.py")) for part in parts[:4]):
                options = (part.removeprefix("--").split("=", 1) for part in parts if part.startswith("--") and "=" in part)
                yield {name: value for name, value in options}, process / "cwd"
        except OSError:  # it has ended, or is hidden
            continue


def growth_of(config: dict[str, Any]) -> Growth:
    """What an autoscaler's configuration allows: a cluster file's, or as Ray derives it from a RayCluster."""
    whole = prepare_config({**config, "file_mounts": {}})  # of which it warns on the terminal
    types = [NodeType(name, kind.get("resources", {}), kind["max_workers"]) for name, kind in whole["available_node_types"].items()]
    return Growth(tuple(types), whole["max_workers"])
