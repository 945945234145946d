"""What comes with the package: the licences of all that it needs, and that building it again gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = ("", "can", "cuda13", "curve", "metrics", "mqtt", "ros2", "tokenizers", "updates", "voice")
"""What may go onto a device."""
PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "PSF-2.0", "Zlib",
}  # fmt: skip
WORDS = {
    "Apache": "Apache-2.0",  # pymicro-features; its LICENSE is that of version 2.0
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT": "MIT",
    "MIT License": "MIT",
}
"""How packages of before SPDX expressions say it."""


ASKING = {
    # EPL or BSD, as one likes: BSD.
    "paho-mqtt": {"EPL-2.0"},
    # Asks that whoever has the device can put another version of it in place, as pip does. Only with the extra `can`.
    "python-can": {"LGPL-3.0-only"},
    # Of `tokenizers`, by huggingface-hub. Asks for the source of its own files alone, which are installed as source.
    "tqdm": {"MPL-2.0 AND MIT"},
}
"""Read, and taken as they are."""


def closure(name: str, extras: tuple[str, ...], seen: set[str]) -> Iterator[metadata.Distribution]:
    """`name` and all that it needs here."""
    distribution = metadata.distribution(name)
    yield distribution
    for line in distribution.requires or ():
        needed = Requirement(line)
        key = canonicalize_name(needed.name)
        wanted = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        if wanted and key not in seen:
            seen.add(key)
            yield from closure(needed.name, ("", *needed.extras), seen)


def licences(distribution: metadata.Distribution) -> set[str]:
    """SPDX identifiers; words that are none stay as they are."""
    told = distribution.metadata
    if expression := told.get("License-Expression"):
        return set(re.split(r" (?:AND|OR) ", expression.replace("(", "").replace(")", "")))
    classes = [line.rsplit(" :: ", 1)[-1] for line in told.get_all("Classifier") or () if line.startswith("License")]
    words = classes or [(told.get("License") or "none").splitlines()[0]]
    return {WORDS.get(word, word) for word in words}


def test_all_that_goes_onto_a_device_has_a_licence_that_was_read() -> None:
    found = {one.metadata["Name"]: licences(one) for one in closure("edge-runtime", EXTRAS, {"edge-runtime"})}
    assert len(found) > 15, "the walk did walk"
    surprises = {
        name: licence for name, licence in found.items() if not licence <= PERMISSIVE | ASKING.get(name, set())
    }
    assert surprises == {}, "read it, then add it to PERMISSIVE or ASKING, or do without the package"


def test_a_wheel_that_is_built_again_is_the_same_to_the_byte(tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        # As pip builds it, from a tree that nothing was built in before.
        source = tmp_path / f"source{number}"
        tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=False)
        if tracked.returncode:
            pytest.skip("not a git checkout")
        _copy(tracked.stdout, source)
        line = [sys.executable, "-c", _BUILD, str(tmp_path / f"wheel{number}")]
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
        done = subprocess.run(line, cwd=source, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (wheel,) = (tmp_path / f"wheel{number}").glob("*.whl")
        digests.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
        names = subprocess.run(
            [sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True
        )
        for inside in ("service/edge-runtime@.service", "schema/", "bundles/vehicle/manifest.json", "py.typed"):
            assert f"edge_runtime/{inside}" in names.stdout
    assert len(digests) == 1


_BUILD = """
import sys
from pathlib import Path
from setuptools.build_meta import build_wheel
Path(sys.argv[1]).mkdir()
build_wheel(sys.argv[1])
"""


def _copy(tracked: bytes, target: Path) -> None:
    """Files without tests and other things that no wheel holds."""
    for name in tracked.decode().split("\0"):
        if name and not name.startswith(("tests/", "docs/", ".")):
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / name).read_bytes())
            place.chmod(0o644)
