"""A small job as a file's settings, changes to it, and what reading it says."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_s2v.config.job import Job
from ray_s2v.job_file import load_job
from ray_s2v.schema import ConfigError

SHIPPED = sorted(path for path in (Path(__file__).parents[1] / "jobs").glob("*.yaml") if not path.name.startswith("sweep"))
SETTINGS: dict[str, Any] = {
    "run": {"folder": "runs/a"},
    "data": {"sources": [{"path": "clips"}, {"path": "more", "resolution": 480, "resolution_type": "pixel"}]},
    "encoders": {"vae": {"path": "vae"}, "speech": {"path": "speech"}, "text": {"path": "text", "tokenizer": "tokenizer"}},
    "model": {"path": "model"},
    "training": {"steps": 10, "global_batch": 8, "workers": 2},
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The settings with some set by their dotted keys; a value of `...` takes one out."""
    result = copy.deepcopy(SETTINGS)
    for key, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        node: Any = result
        for part in parents:
            node = node[part] if isinstance(node, list) else node.setdefault(part, {})
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return result


def load(folder: Path, content: str | bytes | dict[str, Any], overrides: tuple[str, ...] = ()) -> Job:
    """The job of a file of that content, written in the folder."""
    file = folder / "written.yaml"
    text = yaml.safe_dump(content) if isinstance(content, dict) else content
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_job(str(file), overrides)


def mistakes(folder: Path, content: str | dict[str, Any], overrides: tuple[str, ...] = ()) -> list[str]:
    """The lines of the error, without the first, which counts them."""
    with pytest.raises(ConfigError) as caught:
        load(folder, content, overrides)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith(f": {len(lines)} mistake{'s' if len(lines) > 1 else ''}")
    return [line.strip() for line in lines]
