"""How much memory there is left to use: on this machine, and within the control groups that this process is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int | None:
    """What may still be used without swapping or being killed for it; None where the system does not tell (not Linux).

    The least of MemAvailable and what is left under each memory limit of this process's control groups, of version 1
    or 2; what the system would give back first (inactive files) counts as free.
    """
    limits = [*_machine(root), *_groups(root)]
    return min(limits) if limits else None


def _machine(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _groups(root: Path) -> Iterator[int]:
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left(mounted, path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left(mounted / "memory", path, names)


def _left(mounted: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    """What is left in the group and in each above it. Inside a container its own group is where all are mounted."""
    limit_name, used_name, inactive_name = names
    below = Path(path.strip("/"))
    for group in (below, *below.parents):
        limit, used = _read(mounted / group / limit_name), _read(mounted / group / used_name)
        if limit.strip().isdigit() and used.strip().isdigit():
            stat = dict(line.split() for line in _read(mounted / group / "memory.stat").splitlines())
            yield max(0, int(limit) - int(used) + int(stat.get(inactive_name, 0)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
