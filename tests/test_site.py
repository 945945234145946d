"""The documentation builds into a site without a dead link, and reads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(line, cwd=source, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_every_page_is_there_and_the_readme_is_the_first(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem / "index.html").is_file(), f"{page.name} is not in the site"
    first = (site / "index.html").read_text(encoding="utf-8")
    assert "make demo" in first
    (picture,) = re.findall(r'src="([^"]*town\.jpg)"', first)
    assert (site / picture).read_bytes() == (ROOT / "edge_runtime" / "world" / "town.jpg").read_bytes()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text()
        )
        assert loaded == [], f"{page.name} loads {loaded}"


def test_a_dead_link_ends_the_build(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    for name in ("README.md", "systemd/README.md", "examples/node/README.md", "examples/ros2/README.md", "mkdocs.yml"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    hooks = source / "docs" / "_site" / "hooks.py"
    hooks.parent.mkdir(parents=True)
    hooks.write_text((ROOT / "docs" / "_site" / "hooks.py").read_text(encoding="utf-8"), encoding="utf-8")
    (source / "docs" / "behaviour.md").write_text("[nowhere](nowhere.md)\n", encoding="utf-8")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0 and "nowhere.md" in done.stdout + done.stderr
