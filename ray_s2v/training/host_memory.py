"""Host memory that this process may still take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

GIB = 2**30
USABLE = 0.9  # of what is free
RESERVED = 0.06  # of the whole: Ray ends workers when a machine is at 0.95
STEADY = 0.5 * GIB  # less than this a second is no longer a process that gives back what it had


def usable_host_gib(share: float = 1.0, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """GiB that the system may still give, or this process's container, if that is less. share: of the system's that is ours."""
    fields = {name: 1024 * int(value.split()[0]) for name, value in map(_named, (proc / "meminfo").read_text().splitlines())}
    found = [share * _usable(fields["MemAvailable"], fields["MemTotal"])]
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            found += _of_groups(cgroups, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            found += _of_groups(cgroups / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return max(min(found), 0.0) / GIB


def settled_host_gib(share: float) -> float:
    """`usable_host_gib` once processes that ended just now have given back what they had."""
    before, now = 0.0, usable_host_gib(share)
    while now > before + STEADY / GIB:
        time.sleep(1)
        before, now = now, usable_host_gib(share)
    return now


def _named(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value


def _usable(free: float, whole: float) -> float:
    return min(USABLE * free, free - RESERVED * whole)


def _of_groups(root: Path, path: str, limit: str, usage: str, cached: str) -> Iterator[float]:
    """Of a group and of each that it is in, where they have a limit; in a container the group may be seen as the root."""
    folder = root / path.lstrip("/")
    for group in (folder, *folder.parents):
        files = [group / name for name in (limit, usage, "memory.stat")]
        if all(file.is_file() for file in files) and (most := files[0].read_text().strip()) != "max":
            counts = dict(line.split() for line in files[2].read_text().splitlines())
            yield _usable(int(most) - int(files[1].read_text()) + int(counts[cached]), int(most))
        if group == root:
            break
