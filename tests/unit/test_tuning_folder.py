"""A sweep's folder: what changed since it was begun, and who may use it."""

import subprocess
import sys
from pathlib import Path

import pytest

from ray_s2v.config.sweep import Sweep
from ray_s2v.schema import ConfigError
from ray_s2v.tuning.folder import changed, check_folder, in_use, settings_of, write_whole


def a_sweep(folder: Path, **settings: object) -> Sweep:
    space = {"training.learning_rate": {"values": [1e-3, 1e-2]}}
    return Sweep.model_validate({"folder": str(folder), "job": {"run": {"seed": 1}}, "search": "grid", "space": space, **settings})


def test_changes_name_the_setting() -> None:
    before = {"job": {"data": {"sources": [{"path": "a"}, {"path": "b"}]}, "flow": {"shift": 3}}, "space": {"x": {"values": [1, 2]}}}
    now = {"job": {"data": {"sources": [{"path": "a"}, {"path": "c"}]}, "flow": {}}, "space": {"x": {"values": [1, 3]}}, "seed": None}
    assert changed(before, now) == [
        'job.data.sources.1.path was "b", is "c"',
        "job.flow was not given, is {}",
        "job.flow.shift was 3, is not given",
        "seed was not given, is null",
        "space.x.values was [1, 2], is [1, 3]",
    ]
    assert changed(now, now) == []


def test_a_sweep_that_changed_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep = a_sweep(folder)
    check_folder(sweep, folder)
    assert not folder.exists(), "checking writes nothing"
    with in_use(sweep, folder):
        pass
    check_folder(sweep, folder)
    check_folder(a_sweep(folder, at_once=3), folder)  # that may change
    with pytest.raises(ConfigError, match=r"begun otherwise:\n  seed was 42, is 7\nChange that back, or take a new folder"):
        check_folder(a_sweep(folder, seed=7), folder)
    with pytest.raises(ConfigError, match=r"job\.run\.seed was 1, is 2"):
        check_folder(a_sweep(folder, job={"run": {"seed": 2}}), folder)


def test_settings_come_back_from_yaml_as_they_were(tmp_path: Path) -> None:
    sweep = a_sweep(
        tmp_path, space={"a.b": {"log_uniform": [1e-5, 1e-2]}, "c.d": {"values": [True, None, [1, 2], "x"]}}, search="random", trials=3
    )
    with in_use(sweep, tmp_path):
        check_folder(sweep, tmp_path)
    assert changed(settings_of(sweep), settings_of(sweep)) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no folder that can be written to"):
        check_folder(a_sweep(tmp_path), tmp_path / "file" / "sweep")


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    holding = """
import sys
from pathlib import Path
from tests.unit.test_tuning_folder import a_sweep, in_use
with in_use(a_sweep(Path(sys.argv[1])), Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="in use by another sweep"), in_use(a_sweep(tmp_path), tmp_path):
            pass
        other.kill()
    with in_use(a_sweep(tmp_path), tmp_path):
        pass


def test_write_whole_replaces(tmp_path: Path) -> None:
    for text in ("one\r\n", "two\n"):
        write_whole(tmp_path / "a.csv", text)
        assert (tmp_path / "a.csv").read_bytes() == text.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
