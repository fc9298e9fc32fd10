"""The files that Ray's launcher reads, against Ray and the clouds' tables of parameters."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster_files import (
    CLUSTER,
    LAUNCHED,
    ROOT,
    Config,
    autoscaling,
    both,
    read,
)


@both
def test_ray_reads_it(path: Path) -> None:
    autoscaling(path)


@pytest.mark.parametrize("wrong", [{"idle_minutes": 3}, {"max_workers": "many"}, {"head_node_type": "nobody"}])
def test_ray_refuses_what_is_wrong(wrong: Config) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config({**read(LAUNCHED["l40s"]), **wrong}))


@pytest.mark.parametrize("card", ["l40s", "mi300x"])
def test_machines_say_of_which_type_they_are(card: str) -> None:
    """Ray does not, with the autoscaler of `ray up`; of twins with equal resources nobody else could tell."""
    config = read(LAUNCHED[card])
    for name, kind in config["available_node_types"].items():
        assert name == config["head_node_type"] or kind["labels"] == {"ray.io/node-group": name, "pool": name.removesuffix("-spot")}


def test_machines_of_aws_are_what_its_api_takes() -> None:
    session, validate = pytest.importorskip("botocore.session"), pytest.importorskip("botocore.validate")
    shape = session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in read(LAUNCHED["l40s"])["available_node_types"].items():
        report = validate.ParamValidator().validate({**kind["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert ("InstanceMarketOptions" in kind["node_config"]) == name.endswith("-spot")


def test_machines_of_azure_are_what_rays_template_takes() -> None:
    template = Path(ray.autoscaler.__file__).parent / "_private/_azure/azure-vm-template.json"
    known = json.loads(template.read_text(encoding="utf-8"))["parameters"].keys()
    for kind in read(LAUNCHED["mi300x"])["available_node_types"].values():
        assert kind["node_config"].keys() == {"azure_arm_parameters"}
        assert kind["node_config"]["azure_arm_parameters"].keys() <= known


def test_the_head_on_azure_gets_the_packages_that_ray_names() -> None:
    defaults = read(Path(ray.autoscaler.__file__).parent / "azure/defaults.yaml")
    named = re.findall(r"\S+==\S+", " ".join(defaults["head_setup_commands"]))
    assert named
    assert named == re.findall(r"\S+==\S+", " ".join(read(LAUNCHED["mi300x"])["head_setup_commands"]))


@pytest.mark.parametrize("path", LAUNCHED.values(), ids=lambda path: path.stem)
def test_commands_use_only_files_that_are_sent(path: Path) -> None:
    config = read(path)
    sent = config["file_mounts"]
    assert all((ROOT / source).is_file() for source in sent.values() if not source.startswith("~"))
    commands = [line for name, lines in config.items() if name.endswith("commands") for line in lines]
    used = {name for line in commands for name in re.findall(r"~/ray_s2v/([\w.]+)", line)}
    assert used == {"install.sh", "environment.sh"}
    assert {f"/home/ubuntu/ray_s2v/{name}" for name in used | {"pyproject.toml", "constraints.txt"}} <= sent.keys()
    (start,) = (line for line in config["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_can_be_read(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True, timeout=30)


@pytest.mark.parametrize(("script", "card"), [("aws_prepare.sh", "l40s"), ("azure_prepare.sh", "mi300x")])
def test_what_a_script_fills_in_stands_in_the_file(script: str, card: str) -> None:
    last = (CLUSTER / script).read_text(encoding="utf-8").splitlines()[-1]
    patterns = re.findall(r's/([^/$"]+)/', last)
    assert patterns
    for pattern in patterns:
        assert re.search(pattern, LAUNCHED[card].read_text(encoding="utf-8")), pattern
