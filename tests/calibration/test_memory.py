from __future__ import annotations

from pathlib import Path

import pytest

from calibration.memory import available_bytes

GIB = 1 << 30


def machine(root: Path, available: int = 8 * GIB, **files: str) -> Path:
    """A made-up /proc and /sys; names of files with `__` in the place of `/`."""
    told = {"proc__meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\n", **files}
    for name, content in told.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def group(where: str, limit: object, used: int, inactive: int = 0, version: int = 2) -> dict[str, str]:
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    stat = f"anon 5\n{names[2]} {inactive}\n"
    return {f"{where}__{names[0]}": f"{limit}\n", f"{where}__{names[1]}": f"{used}\n", f"{where}__memory.stat": stat}


def test_what_the_machine_has_left(tmp_path: Path) -> None:
    assert available_bytes(machine(tmp_path)) == 8 * GIB


def test_where_nothing_tells_nothing_is_known(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


def test_this_machine_tells() -> None:
    found = available_bytes()
    assert found is None or 0 <= found < 1 << 50


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", group("sys__fs__cgroup__a__b", 4 * GIB, GIB), 3 * GIB),
        ("0::/a/b\n", group("sys__fs__cgroup__a__b", 4 * GIB, GIB, GIB // 2), 3 * GIB + GIB // 2),
        ("0::/a/b\n", group("sys__fs__cgroup__a__b", "max", GIB) | group("sys__fs__cgroup__a", 2 * GIB, GIB), GIB),
        ("0::/elsewhere\n", group("sys__fs__cgroup", 2 * GIB, GIB), GIB),
        ("0::/\n", group("sys__fs__cgroup", "max", GIB), 8 * GIB),
        ("0::/a\n", group("sys__fs__cgroup__a", GIB, 2 * GIB), 0),
        ("0::/a\n", group("sys__fs__cgroup__a", 99 * GIB, GIB), 8 * GIB),
        ("5:cpu:/x\n4:memory:/x\n0::/\n", group("sys__fs__cgroup__memory__x", 3 * GIB, GIB, version=1), 2 * GIB),
        ("5:cpu:/x\n", group("sys__fs__cgroup__memory__x", 3 * GIB, GIB, version=1), 8 * GIB),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    assert available_bytes(machine(tmp_path, proc__self__cgroup=own, **files)) == expected
