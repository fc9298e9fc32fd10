"""Host memory that this process may still take."""

from __future__ import annotations

from pathlib import Path

GIB = 2**30
USABLE = 0.9  # of what is free: Ray ends workers when a machine is at 0.95


def usable_host_gib(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """GiB that the system has free, or this process's container has left, if that is less."""
    fields = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    free = [int(fields["MemAvailable"].split()[0]) * 1024]
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            free += _left(cgroups, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            free += _left(cgroups / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return USABLE * min(free) / GIB


def _left(root: Path, path: str, limit: str, usage: str, cached: str) -> list[int]:
    """Bytes below the limit of a group and of each that it is in; in a container the group may be seen as the root."""
    found, folder = [], root / path.lstrip("/")
    for group in (folder, *folder.parents):
        files = [group / name for name in (limit, usage, "memory.stat")]
        if all(file.is_file() for file in files) and (most := files[0].read_text().strip()) != "max":
            counts = dict(line.split() for line in files[2].read_text().splitlines())
            found.append(int(most) - int(files[1].read_text()) + int(counts[cached]))
        if group == root:
            break
    return found
