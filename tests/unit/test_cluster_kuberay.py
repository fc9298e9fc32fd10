"""The manifests for KubeRay against its published definitions and Ray's own reading of them."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cluster_files import (
    CLUSTER,
    CLUSTERS,
    DEFINITIONS,
    RAY_JOBS,
    every_card,
    parsed,
    read,
)


def strict(schema: Any) -> Any:
    """An OpenAPI schema as a JSON schema that refuses the fields it does not know: the server drops them without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: strict(item) for name, item in value.items()} if key == "properties" else strict(value) for key, value in schema.items()
    }
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    return made


@cache
def definition(kind: str) -> Any:
    path = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip("KubeRay's published definitions are not beside this checkout")
    (version,) = (version for version in parsed(path)["spec"]["versions"] if version["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": False}
    return schema


@pytest.mark.parametrize("path", [*CLUSTERS.values(), *RAY_JOBS.values()], ids=lambda path: path.stem)
def test_kuberay_knows_every_field(path: Path) -> None:
    found = read(path)
    assert found["apiVersion"] == "ray.io/v1"
    jsonschema.validate(found, definition(found["kind"]))


WRONG_FIELDS: dict[str, Any] = {
    "autoscalerOptions.idleTimeout": 60,
    "headGroupSpec.template.spec.containers.0.resource": {},
    "workerGroupSpecs.0.maxReplicas": "4",
    "workerGroupSpecs.0.template.spec.volumes.0.persistentVolumeClaim.claim": "x",
    "authOptions.mode": "none",
}


@pytest.mark.parametrize("where", WRONG_FIELDS)
def test_a_wrong_field_is_found(where: str) -> None:
    found = read(CLUSTERS["l40s"])
    *way, last = where.split(".")
    node = found["spec"]
    for part in way:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[last] = WRONG_FIELDS[where]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, definition("RayCluster"))


@every_card
def test_a_ray_job_brings_the_same_cluster(card: str) -> None:
    job = read(RAY_JOBS[card])["spec"]
    assert job["rayClusterSpec"] == read(CLUSTERS[card])["spec"]
    module = re.match(r"python -m (ray_s2v\.\w+) /job/job\.yaml$", job["entrypoint"])
    assert module
    assert importlib.util.find_spec(module[1])


@every_card
def test_pods_share_one_folder_and_take_secrets_by_name(card: str) -> None:
    claim = read(CLUSTER / "kuberay/shared.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    spec = read(CLUSTERS[card])["spec"]
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    for pod in pods:
        (container,) = pod["containers"]
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert places == {"shared": "/shared", "job": "/job"}
        assert volumes.keys() == places.keys()
        assert volumes["shared"]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
        assert container["envFrom"] == [{"secretRef": {"name": "ray-s2v", "optional": True}}]
        assert container["image"] in ("ray-s2v:cuda", "ray-s2v:rocm")
        assert (container["image"] == "ray-s2v:rocm") == ("amd.com/gpu" in container["resources"]["limits"])
    assert len({pod["securityContext"]["runAsUser"] for pod in pods}) == 1, "or some could not write what others wrote"
