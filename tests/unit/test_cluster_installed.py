"""What is installed on a cluster's machines, what is sent to them, and that no secret is in a file."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

from ray_s2v.cluster.join import ENVIRONMENT
from tests.cluster_files import (
    CLUSTER,
    CLUSTERS,
    ROOT,
    WRITTEN,
    read,
)


def test_versions_agree() -> None:
    pins = dict(line.split("==") for line in (CLUSTER / "constraints.txt").read_text().splitlines() if "==" in line)
    texts = {path: path.read_text(encoding="utf-8") for path in WRITTEN}
    assert {read(path)["spec"]["rayVersion"] for path in CLUSTERS.values()} == {pins["ray"]}
    assert {found for text in texts.values() for found in re.findall(r"\bRay (?:machines )?\(?(\d+\.\d+\.\d+)", text)} == {pins["ray"]}
    pythons = {found for text in texts.values() for found in re.findall(r"(?:--python|-p|Python) (\d\.\d+)\b", text)}
    assert len(pythons) == 1
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert SpecifierSet(requires).contains(pythons.pop())
    assert len({found for text in texts.values() for found in re.findall(r"astral.sh/uv[:/](\d+\.\d+\.\d+)", text)}) == 1
    for name in ("cuda", "rocm"):
        text = (CLUSTER / f"images/Dockerfile.{name}").read_text(encoding="utf-8")
        assert "COPY pyproject.toml cluster/constraints.txt cluster/install.sh /opt/ray_s2v/" in text
        assert "sh /opt/ray_s2v/install.sh" in text
    install = (CLUSTER / "install.sh").read_text(encoding="utf-8")
    assert "-c constraints.txt -r pyproject.toml" in install


@pytest.mark.parametrize("name", ["runtime_env.yaml", "runtime_env_uv.yaml"])
def test_environment_of_a_job(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)  # where `ray job submit` is given
    given = read(CLUSTER / name)
    made = RuntimeEnv(**given)
    assert not given.get("env_vars", {}).keys() & ENVIRONMENT.keys(), "a job's own and the driver's may not both say a name"
    if "uv" in given:
        assert "torch==2.11.0" in made["uv"]["packages"]
    create_package(
        str(ROOT),
        tmp_path / "sent.zip",
        include_gitignore=True,
        include_parent_dir=False,
        excludes=[*given["excludes"], *get_runtime_env_default_excludes()],
    )
    sent = zipfile.ZipFile(tmp_path / "sent.zip").namelist()
    assert {"jobs/cluster_l40s.yaml", "ray_s2v/train.py"} <= set(sent)
    assert {entry.split("/")[0] for entry in sent}.isdisjoint({"tests", "cluster", ".git", ".venv", "runs"})


KNOWN_SECRETS = re.compile(r"hf_\w{20}|gh[pousr]_\w{20}|\b(AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN|AccountKey=|\bey[JI]\w{20}|xox[abp]-")
RANDOM = re.compile(r"(?<![\w+])(?=[A-Za-z+]*\d)[A-Za-z0-9+]{32,}")
ASSIGNED = re.compile(
    r"""\b(\w*_)?(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY)(_\w*)?["']?\s*(?:[:=]|,\s*value:)\s*["']?(?![.$"'{<\s(])\w""", re.IGNORECASE
)
SPOKEN_OF = re.compile(r"secretRef|authOptions|auth_token")


def secrets_in(text: str) -> list[str]:
    found = [line for line in text.splitlines() if KNOWN_SECRETS.search(line) or RANDOM.search(line)]
    return found + [line for line in text.splitlines() if ASSIGNED.search(line) and not SPOKEN_OF.search(line)]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_secret_no_place_of_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert secrets_in(text) == []
    assert not re.search(r"/work/|/root/(?!env)|localhost:5000|\.internal\b|\.corp\b", text)


@pytest.mark.parametrize(
    "text",
    [
        "  HF_TOKEN: hf_" + "aB3" * 9,
        "export WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567",
        "- {name: MY_PASSWORD, value: x}",
        "MY_PASSWORD: hunter2",
        "AWS_SECRET_ACCESS_KEY='abc'",
        "aws_access_key_id AKIA" + "A1" * 8,
    ],
)
def test_secrets_are_found(text: str) -> None:
    assert secrets_in(text)
