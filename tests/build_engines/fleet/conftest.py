"""One fleet for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.heads.policy import DecisionPolicy
from tests import tiny
from tests.build_engines.fleet.drives import write_fleet

POLICY = DecisionPolicy("stop", threshold=0.6, heartbeat_ms=200)
"""Abstains now and then."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return open_bundle(tiny.write_bundle(folder, policy=POLICY), allow_unsigned=True)


@pytest.fixture(scope="session")
def fleet(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fleet(tmp_path_factory.mktemp("fleet"), bundle)


@pytest.fixture(scope="session")
def worse_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Decides otherwise: what it makes of the inputs points the other way."""
    folder = tmp_path_factory.mktemp("worse") / "tiny"
    return open_bundle(tiny.write_bundle(folder, scale=-1.0, policy=POLICY, version="2.0.0"), allow_unsigned=True)
