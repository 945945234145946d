"""requirements/*.txt: every package that pyproject.toml asks for, in a version that it takes, with hashes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
AGAIN = "run: make lock"
MACHINES = list(product(("3.10", "3.11", "3.12"), ("x86_64", "aarch64")))


def lines(file: str) -> list[str]:
    """Of a file of requirements, those joined that are parted by a backslash, without comments."""
    text = (FOLDER / file).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line]


def asked(extra: str) -> Iterator[Requirement]:
    """What pyproject.toml names for `extra` (none: the package alone), extras of its own resolved."""
    name = PROJECT["project"]["name"]
    dependencies = PROJECT["project"]["dependencies"]
    for line in PROJECT["project"]["optional-dependencies"][extra] if extra else dependencies:
        requirement = Requirement(line)
        if requirement.name != name:
            yield requirement
        for other in sorted(requirement.extras) if requirement.name == name else ():
            yield from asked(other)
    if extra:
        yield from asked("")


@pytest.mark.parametrize(("python", "machine"), MACHINES)
@pytest.mark.parametrize(("file", "extra"), [("demo.txt", ""), ("test.txt", "test")])
def test_what_the_project_asks_for_is_locked_in_a_version_that_it_takes(
    file: str, extra: str, python: str, machine: str
) -> None:
    here = {key: str(value) for key, value in default_environment().items()}
    here |= {"python_version": python, "python_full_version": f"{python}.5", "platform_machine": machine}
    pins: dict[str, str] = {}
    for line in lines(file):
        pin = Requirement(line.partition("--hash")[0])
        if pin.marker is None or pin.marker.evaluate(here):
            name = canonicalize_name(pin.name)
            assert name not in pins, f"{file}: two of {name} for Python {python} on {machine}; {AGAIN}"
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            pins[name] = specifier.version
    unlocked = {canonicalize_name(Requirement(line).name) for line in lines("unlocked.in")}
    assert not unlocked & pins.keys()
    wanted = [one for one in asked(extra) if one.marker is None or one.marker.evaluate(here)]
    assert len(wanted) > 10
    for one in [*wanted, *map(Requirement, PROJECT["build-system"]["requires"])]:
        name = canonicalize_name(one.name)
        if name not in unlocked:
            assert name in pins, f"{file}: {name} is missing for Python {python} on {machine}; {AGAIN}"
            assert one.specifier.contains(pins[name]), f"{file}: {name} {pins[name]} is not {one.specifier}; {AGAIN}"


@pytest.mark.parametrize("file", ["demo.txt", "test.txt"])
def test_every_line_has_hashes(file: str) -> None:
    for line in lines(file):
        hashes = line.split("--hash=")[1:]
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes), line


def test_what_builds_the_package_is_what_the_project_names() -> None:
    assert lines("build.in") == PROJECT["build-system"]["requires"]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("target", ["demo", "test"])
def test_locked_installs_that_and_nothing_that_has_no_hash_but_the_build_of_torch(target: str, tmp_path: Path) -> None:
    def said(*options: str) -> list[str]:
        line = ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}", *options]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
        return [one for one in done.stdout.splitlines() if "pip install" in one]

    locked = said("LOCKED=1")
    assert any(f"--require-hashes -r requirements/{target}.txt" in one for one in locked)
    for one in locked:
        known = ("--require-hashes", "--no-deps", "torch==", "opencv-python-headless")  # the last where there is none
        assert any(word in one for word in known), one
    assert not any("--require-hashes" in one for one in said())
