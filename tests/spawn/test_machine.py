"""Ranks of one machine: what streams is in memory once."""

from pathlib import Path

import pytest
import torch

from tests.spawn.machine_runs import run_on_both, shared, streamed
from tests.tiny import tiny_network

pytestmark = pytest.mark.timeout(200)


def test_ranks_of_a_machine_share_a_nameless_file(tmp_path: Path) -> None:
    first, second = run_on_both(shared, tmp_path / "out", tmp_path)
    assert first["ranks"] == second["ranks"] == (0, 1)
    assert (first["is_first"], second["is_first"]) == (True, False)
    assert first["read"] == second["read"] == "written by 0"
    assert first["everyone"] == second["everyone"] == [0, 10]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_network().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_ranks_stream_the_same_weights(tmp_path: Path, checkpoint: Path, precision: str, place: str) -> None:
    settings = {"model.base_precision": precision, "training.workers": 2, "training.global_batch": 2}
    (expected, _) = run_on_both(streamed, tmp_path / "resident", checkpoint, settings)
    settings |= {"offload.blocks": True, "offload.disk_path": str(tmp_path / "disk") if place == "disk" else ""}
    both = run_on_both(streamed, tmp_path / "streamed", checkpoint, settings)
    assert "stream" in both[0]["notes"][0]
    assert "stream" not in expected["notes"][0]
    for found in both:
        assert torch.equal(found["losses"], expected["losses"])
        assert all(torch.equal(found["gradients"][name], right) for name, right in expected["gradients"].items())
        assert any(right.abs().max() > 0 for right in expected["gradients"].values())
    # One file that both map, and each once.
    (one,), (other,) = ([*found["maps"].items()] for found in both) if place == "memory" else ([0], [0])
    assert one == other
    assert expected["maps"] == {}
