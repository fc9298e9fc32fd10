"""Ray's autoscaler, which starts raylets on this machine in place of nodes: a head alone, and what a job makes of it."""

import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml

from tests.cluster.conftest import records
from tests.cluster.heads import ENVIRONMENT, STORE, Head, free_port, head

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

HEAD_ID = "f" * 51 + "00000"
# Only the pool's nodes are large enough to decode on.
TYPES = {
    "ray.head.default": ({"CPU": 0}, 0),
    "trainer": ({"CPU": 1, "GPU": 1, "accelerator_type:L40S": 1, "object_store_memory": STORE}, 3),
    "pool": ({"CPU": 4, "accelerator_type:L4": 1, "object_store_memory": STORE}, 1),
}
AUTOSCALING = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "3",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2",  # Ray Train gives up before the nodes are there, and tries again
}
LISTS = ["cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands"]
LISTS += [f"{whose}_commands" for whose in ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")]
PLACED = [
    "training.worker_cpus=1",
    "training.accelerator_type=L40S",
    "data.decode_cpus=1.5",
    *[f"encoders.{name}.accelerator_type=L4" for name in ("vae", "speech", "text")],
]
# One of both may be up before the first look.
WAITED = re.compile(
    r"^waiting for trainer nodes of 1 CPU, 1 GPU, L40S \([01] up, at most 3\) for [12] worker.*^all nodes are up$", re.M | re.S
)
AS_TOLD_ELSEWHERE = """
import ray
from ray_s2v.cluster.supply import growth
ray.init(log_to_driver=False)
here = growth()
there = ray.get(ray.remote(growth).options(num_cpus=0, resources={"accelerator_type:L40S": 0.001}).remote())
assert here.types and there == here, (here, there)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head without CPUs, whose autoscaler may start three nodes of one kind and one of another."""
    port = free_port()
    config = {
        "cluster_name": "alone",
        "max_workers": 4,
        "idle_timeout_minutes": 0.2,  # longer than Ray Train takes to try again, or nodes could come and go in turns for ever
        "upscaling_speed": 9,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most}
            for name, (resources, most) in TYPES.items()
        },
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in LISTS},
    }
    file = tmp_path_factory.mktemp("alone") / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    with head("--num-cpus=0", "--num-gpus=0", f"--autoscaling-config={file}", port=port, environment=AUTOSCALING) as there:
        yield there


def kinds(nodes: dict[str, dict[str, float]]) -> Counter[str]:
    """How many of the nodes are of each kind."""
    return Counter(next((name for name in resources if name.startswith("accelerator_type:")), "head") for resources in nodes.values())


def test_impossible_job_is_refused_at_once(alone: Head, places: list[str], tmp_path: Path) -> None:
    changes = ["training.workers=8", "training.global_batch=8", "training.worker_gpus=1", f"run.folder={tmp_path / 'run'}"]
    process = alone.start_job(*places, *PLACED, *changes)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2, said
    assert said.splitlines()[-5:] == [
        "8 workers want one L40S each (training.workers, training.accelerator_type); the cluster can grow to 3",
        "The cluster:",
        "  1 node of 0 CPUs",
        "  pool nodes of 4 CPUs, L4 (0 up, at most 1)",
        "  trainer nodes of 1 CPU, 1 GPU, L40S (0 up, at most 3)",
    ]
    assert not (tmp_path / "run").exists()
    assert len(alone.nodes()) == 1


def test_nodes_come_for_a_job_and_go_after_it(alone: Head, places: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = alone.start_job(*places, *PLACED, f"run.folder={run}", "training.steps=3")
    seen: dict[str, dict[str, float]] = {}
    said, deadline = None, time.monotonic() + 480
    while said is None:
        seen |= alone.nodes()
        try:
            said = process.communicate(timeout=1)[0]
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                process.kill()
    assert process.returncode == 0, f"nodes seen: {seen}; said: {said}"
    assert len(records(run)) == 3
    # Where the machine is slow, tasks of 1 CPU wait for room in the pool, and the autoscaler starts a trainer too many for them.
    assert kinds(seen)["accelerator_type:L40S"] >= 2, "as many as there are workers"
    assert kinds(seen)["accelerator_type:L4"] > 0
    assert WAITED.search(said), said
    assert "failed" not in said
    assert "Traceback" not in said

    asked = subprocess.run(["python", "-c", AS_TOLD_ELSEWHERE], env={**ENVIRONMENT, "RAY_ADDRESS": alone.address}, timeout=60, check=False)
    assert asked.returncode == 0
    alone.wait_for_nodes(1)
