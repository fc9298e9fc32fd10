"""Free host memory, as the kernel tells it in its files."""

from pathlib import Path

import pytest

from ray_s2v.training.host_memory import usable_host_gib

GIB = 2**30


def machine(folder: Path, available_gib: int, groups: str) -> Path:
    """What stands in /proc, of a process in these groups."""
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(
        f"MemTotal:       {200 * 2**20} kB\nMemAvailable:   {available_gib * 2**20} kB\nHugePages_Total:       0\n"
    )
    (folder / "self" / "cgroup").write_text(groups)
    return folder


def group(folder: Path, limit: str, usage: int, cached: int, names: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


SECOND = ("memory.max", "memory.current", "inactive_file")
FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def test_without_a_container_it_is_what_the_system_has(tmp_path: Path) -> None:
    proc = machine(tmp_path / "proc", 100, "0::/user.slice\n")
    assert usable_host_gib(1.0, proc, tmp_path / "none") == pytest.approx(88)
    group(tmp_path / "groups" / "user.slice", "max", 5 * GIB, 0, SECOND)
    assert usable_host_gib(1.0, proc, tmp_path / "groups") == pytest.approx(88)


@pytest.mark.parametrize("at", ["pods", "pods/one", "."])
def test_a_limit_of_any_group_above_counts_without_cached_files(tmp_path: Path, at: str) -> None:
    proc = machine(tmp_path / "proc", 100, "0::/pods/one\n")
    group(tmp_path / "groups" / at, str(64 * GIB), 30 * GIB, 6 * GIB, SECOND)
    assert usable_host_gib(1.0, proc, tmp_path / "groups") == pytest.approx(0.9 * 40)


def test_first_version(tmp_path: Path) -> None:
    proc = machine(tmp_path / "proc", 100, "4:cpu,cpuacct:/docker/a\n3:memory:/docker/a\n")
    group(tmp_path / "groups" / "memory", str(2**63 - 4096), 0, 0, FIRST)
    assert usable_host_gib(1.0, proc, tmp_path / "groups") == pytest.approx(88)
    group(tmp_path / "groups" / "memory" / "docker" / "a", str(50 * GIB), 20 * GIB, 0, FIRST)
    assert usable_host_gib(1.0, proc, tmp_path / "groups") == pytest.approx(0.9 * 30)


def test_this_machine_has_some() -> None:
    assert 0.1 < usable_host_gib() < 10_000


def test_what_ray_keeps_free_of_the_whole_is_left(tmp_path: Path) -> None:
    proc = machine(tmp_path / "proc", 20, "0::/\n")  # of 200
    assert usable_host_gib(1.0, proc, tmp_path / "none") == pytest.approx(20 - 12)
    assert usable_host_gib(0.5, proc, tmp_path / "none") == pytest.approx(4)
    assert usable_host_gib(1.0, machine(tmp_path / "full", 10, "0::/\n"), tmp_path / "none") == 0
