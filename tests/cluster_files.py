"""The files of cluster/ and jobs/cluster_*.yaml as tests read them, and what their pools can grow to."""

from __future__ import annotations

import copy
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config

import ray_s2v
from ray_s2v.cluster.capacity import TYPE
from ray_s2v.config.job import Job
from ray_s2v.job_file import load_job

ROOT = Path(__file__).parents[1]
CLUSTER, JOBS = ROOT / "cluster", ROOT / "jobs"
DEFINITIONS = Path(ray_s2v.__file__).parents[2] / "shared" / "kuberay"
CARDS = {"l40s": "aws", "a6000": "local", "mi300x": "azure"}
LAUNCHED = {card: CLUSTER / f"{provider}_{card}.yaml" for card, provider in CARDS.items()}
CLUSTERS = {card: CLUSTER / f"kuberay/raycluster_{card}.yaml" for card in CARDS}
RAY_JOBS = {card: CLUSTER / f"kuberay/rayjob_{card}.yaml" for card in CARDS}
WRITTEN = [path for path in [*sorted(CLUSTER.rglob("*")), *sorted(JOBS.glob("cluster_*"))] if path.is_file() and path.suffix != ".pyc"]
Config = dict[str, Any]
both = pytest.mark.parametrize("path", [*LAUNCHED.values(), *CLUSTERS.values()], ids=lambda path: path.stem)
every_card = pytest.mark.parametrize("card", CARDS)


@cache
def parsed(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)


def read(path: Path) -> Any:
    return copy.deepcopy(parsed(path))


def given_to_autoscaler(path: Path) -> Config:
    """The file, or what Ray derives from a RayCluster as the server hands it out: there it always has a namespace."""
    found = read(path)
    if path.parent.name != "kuberay":
        return found
    return _derive_autoscaling_config_from_ray_cr({**found, "metadata": {"namespace": "default", **found["metadata"]}})


def autoscaling(path: Path) -> Config:
    """What Ray's autoscaler makes of the file, checked by Ray's own schema; of one's own machines, which it does not know, metadata."""
    config = prepare_config(given_to_autoscaler(path))
    validate_config(config)
    if config["provider"]["type"] == "local":
        machines = config["metadata"]["machines"]
        assert sum(kind["machines"] for kind in machines.values()) == len(config["provider"]["worker_ips"])
        types = {name: {"resources": kind["resources"], "max_workers": kind["machines"]} for name, kind in machines.items()}
        config = {**config, "head_node_type": "head", "available_node_types": {"head": {"resources": {"CPU": 0}}, **types}}
    return config


def job_of(path: Path) -> Job:
    return load_job(str(JOBS / f"cluster_{path.stem.rpartition('_')[2]}.yaml"))


def demands(job: Job, *, most: bool) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What the job's workers and its encoders ask of Ray, the encoders' actors at their most or their least."""
    training, encoders = job.training, job.encoders
    worker = {"CPU": training.worker_cpus, "GPU": training.worker_gpus, f"{TYPE}{training.accelerator_type}": 0.001}
    actors = [
        {"CPU": encoder.cpus, "GPU": encoder.gpus, f"{TYPE}{encoder.accelerator_type}": 0.001}
        for encoder in (encoders.vae, encoders.text, encoders.speech)
        for _ in range(encoder.actors.max if most else encoder.actors.min)
    ]
    return [worker] * (training.workers.max if most else training.workers.min), actors


def grown(
    config: Config, wanted: list[dict[str, float]], score: Any = None, noted: NodeAvailabilitySummary | None = None
) -> dict[str, int]:
    """The machines that Ray's autoscaler starts for what is wanted; fails where that is not enough."""
    score = partial(score or _default_utilization_scorer, node_availability_summary=noted or NodeAvailabilitySummary({}))
    types, head = config["available_node_types"], config["head_node_type"]
    added, left = get_nodes_for(types, {head: 1}, head, config["max_workers"], wanted, score)
    assert not left, f"{left} does not fit into what the cluster may grow to"
    return dict(added)
