"""Folders and hub ids told apart; what is in neither is told before anything loads it."""

from pathlib import Path

import pytest

from ray_s2v.location import check_place, find_place
from ray_s2v.schema import ConfigError


def test_a_slip_in_a_path_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such folder, though runs is one"):
        find_place("runs/wieghts/vae")


def test_a_folder_must_hold_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        check_place(tmp_path, "config.json")
    (tmp_path / "config.json").write_text("{}")
    check_place(tmp_path, "config.json")


def test_a_repository_without_network_must_be_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"the hub gives no vae/config\.json of owner/repository"):
        check_place("owner/repository/vae", "config.json")
    with pytest.raises(ConfigError, match="the hub gives no"):
        check_place("owner/not a repository", "config.json")
