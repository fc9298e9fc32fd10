"""Two raylets that stand for nodes of different kinds: encoders run on the one, training workers on the other."""

from collections import Counter
from pathlib import Path

import pytest
from ray.util.state import list_actors

from tests.cluster.heads import free_port, head

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

KINDS = [*[f"encoders.{name}.accelerator_type=L4" for name in ("vae", "speech", "text")], "training.accelerator_type=L40S"]
SMALL = ["training.workers=1", "training.global_batch=1", "training.steps=1"]


def test_encoders_and_worker_are_where_their_settings_say(places: list[str], tmp_path: Path) -> None:
    with (
        head("--num-cpus=2", '--resources={"accelerator_type:L4": 1}', port=free_port()) as there,
        there.joined("--num-cpus=2", '--resources={"accelerator_type:L40S": 1}'),
    ):
        process = there.start_job(*places, *KINDS, *SMALL, f"run.folder={tmp_path / 'run'}")
        said = process.communicate(timeout=200)[0]
        assert process.returncode == 0, said
        assert "waiting for" not in said
        kinds = {
            node: kind for node, resources in there.nodes().items() for kind in ("L4", "L40S") if f"accelerator_type:{kind}" in resources
        }
        ran = Counter((actor.class_name, kinds[actor.node_id]) for actor in list_actors(there.dashboard, limit=1000))
    encoders = {f"MapWorker(MapBatches(Encode{name}))" for name in ("Video", "Speech", "Text")}
    assert {name: number for name, number in ran.items() if name[0] in {"RayTrainWorker", *encoders}} == {
        ("RayTrainWorker", "L40S"): 1,
        **{(encoder, "L4"): 1 for encoder in encoders},
    }
