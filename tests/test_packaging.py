"""What the project asks to be installed, and the versions that it names for JetPack."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = "constraints-jetpack.txt"
JETPACKS = {
    "JetPack 6": ("3.10", "5.15.148-tegra", "cuda12"),
    "JetPack 7": ("3.12", "6.8.12-tegra", "cuda13"),
    "a Jetson whose kernel does not say so": ("3.10", "5.15.148-own", "cuda12"),
}


def machine(python: str, kernel: str) -> dict[str, str]:
    """What pip's markers read of a Jetson."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.12",
        "platform_machine": "aarch64",
        "platform_release": kernel,
        "sys_platform": "linux",
        "extra": "",
    }


def wanted(kernel: str, python: str = "3.10", extra: str | None = None) -> dict[str, Requirement]:
    """What the project needs directly on such a machine, by name."""
    lines = PROJECT["dependencies"] + (PROJECT["optional-dependencies"][extra] if extra else [])
    requirements = [Requirement(line) for line in lines]
    here = machine(python, kernel)
    return {canonicalize_name(one.name): one for one in requirements if one.marker is None or one.marker.evaluate(here)}


def pins(python: str, kernel: str) -> dict[str, str]:
    """The versions that the constraints name for such a machine."""
    lines = (ROOT / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        (version,) = pin.specifier
        assert version.operator == "==" and "*" not in version.version, line
        if pin.marker is None or pin.marker.evaluate(machine(python, kernel)):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice"
            found[name] = version.version
    return found


@pytest.mark.parametrize("board", JETPACKS)
def test_the_constraints_name_a_fitting_version_of_all_that_the_project_needs(board: str) -> None:
    python, kernel, extra = JETPACKS[board]
    pinned = pins(python, kernel)
    for name, requirement in wanted(kernel, python, extra).items():
        assert name in pinned, f"{name} is left to pip"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} is not met by {pinned[name]}"
    assert pinned["numpy"].startswith("1.")
    assert pinned["cuda-bindings"].split(".")[0] == extra.removeprefix("cuda")


def test_a_jetson_s_kernel_keeps_pip_s_opencv_out_and_no_other_does() -> None:
    assert "opencv-python-headless" not in wanted("5.15.148-tegra")
    assert "opencv-python-headless" not in wanted("5.15.0-1012-nvidia-tegra")
    assert "opencv-python-headless" in wanted("6.8.0-45-generic")
    assert wanted("6.8.0-45-generic").keys() - wanted("5.15.148-tegra").keys() == {"opencv-python-headless"}


def test_the_readme_s_steps_use_the_constraints_and_extras_that_there_are() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"pip install -c {CONSTRAINTS} '.[cuda12]'" in readme
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "edge_runtime").rglob("*.py")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = {extra for group in re.findall(r"(?:edge-runtime|'\.)\[([a-z0-9,]+)\]", text) for extra in group.split(",")}
    assert {"cuda12", "cuda13", "pycuda"} <= named <= PROJECT["optional-dependencies"].keys()
