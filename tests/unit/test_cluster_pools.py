"""What the pools of cluster/ offer, and what its jobs ask for."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from ray._private.accelerators.amd_gpu import AMDGPUAcceleratorManager
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

from ray_s2v.cluster.capacity import TYPE, check, for_encoding, for_training
from ray_s2v.cluster.supply import Node, Supply, growth_of
from ray_s2v.job_file import load_job
from ray_s2v.model.fused.memory import Room
from ray_s2v.model.lora import with_lora
from ray_s2v.model.transformer import WanS2VTransformer3DModel
from ray_s2v.schema import Bucket
from ray_s2v.training.arrangement import arrangement_for
from ray_s2v.training.network import job_lora
from tests.cluster_files import (
    CLUSTER,
    CLUSTERS,
    JOBS,
    LAUNCHED,
    ROOT,
    WRITTEN,
    autoscaling,
    both,
    demands,
    given_to_autoscaler,
    grown,
    job_of,
)


@both
def test_the_head_runs_no_task(path: Path) -> None:
    config = autoscaling(path)
    head = config["available_node_types"][config["head_node_type"]]["resources"]
    assert head["CPU"] == 0
    assert not head.get("GPU")
    assert not any(name.startswith(TYPE) for name in head)


@both
def test_the_job_fits_without_spot_machines(path: Path) -> None:
    """Its workers, and its encoders' actors at their most; twins of a pool do not count twice."""
    config, job = autoscaling(path), job_of(path)
    types = {name: kind for name, kind in config["available_node_types"].items() if not name.endswith("-spot")}
    workers, actors = demands(job, most=True)
    assert grown({**config, "available_node_types": types}, workers + actors)


@both
def test_our_own_look_at_the_cluster_lets_the_job_pass(path: Path) -> None:
    """With the head alone up, and by what it reads of the file there."""
    job = job_of(path)
    there = Supply((Node("", {"node:__internal_head__": 1.0}),), growth_of(given_to_autoscaler(path)))
    check(for_training(job, with_encoders=True), there)
    for kind in ("video", "speech", "text"):
        check(for_encoding(job, kind), there)


@both
def test_trainers_encoders_and_decoders_start_different_machines(path: Path) -> None:
    config, job = autoscaling(path), job_of(path)
    workers, actors = demands(job, most=False)
    decoding = [{"CPU": job.data.decode_cpus}] * 8
    pools = [set(grown(config, wanted)) for wanted in (workers, actors, decoding)]
    assert [{name.removesuffix("-spot") for name in pool} for pool in pools] == [{"train"}, {"encode"}, {"decode"}]


@both
def test_a_job_that_wants_more_is_noticed(path: Path) -> None:
    workers, _ = demands(job_of(path), most=False)
    with pytest.raises(AssertionError, match="does not fit"):
        grown(autoscaling(path), workers * 20)


def test_pools_are_called_as_ray_calls_the_cards() -> None:
    named = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type
    known = {named(f"NVIDIA {card}") for card in ("L40S", "L4", "RTX A6000", "RTX A5000", "A100 80GB PCIe")}
    known.add(AMDGPUAcceleratorManager._gpu_name_to_accelerator_type("0x74a1"))
    used = {
        name.removeprefix(TYPE)
        for path in (*LAUNCHED.values(), *CLUSTERS.values())
        for kind in autoscaling(path)["available_node_types"].values()
        for name in kind["resources"]
        if name.startswith(TYPE)
    }
    assert used == known


@pytest.mark.parametrize(("card", "shows", "ranks"), [("l40s", 44.4, 1), ("a6000", 47.5, 4), ("mi300x", 191.0, 8)])
def test_a_jobs_head_says_what_its_card_will_hold(card: str, shows: float, ranks: int) -> None:
    """shows: GiB that the card has, as its driver says; ranks: cards of a machine."""
    file = JOBS / f"cluster_{card}.yaml"
    job = load_job(str(file))
    with torch.device("meta"):
        outline = with_lora(WanS2VTransformer3DModel(), job_lora(job), 0)
    found = arrangement_for(
        job, outline, Room(shows, math.inf, ranks), Bucket(832, 480, job.data.sources[0].num_frames), job.training.workers.max
    )
    (head,) = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# Computed peak: ")]
    assert re.findall(r"([\d.]+) GiB", head) == re.findall(r"([\d.]+) GiB", str(found))


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_spoken_of_are_there(path: Path) -> None:
    for named in re.findall(r"(?<![\w/.*])(?:cluster|jobs|kuberay)/[\w./*-]*\w", path.read_text(encoding="utf-8")):
        assert list(ROOT.glob(named)) or list(CLUSTER.glob(named)), named
