"""A thin bundle decides as the whole one does on its target, and holds nothing else."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from build_engines.thin import thin
from build_engines.write_bundle import write_bundle
from edge_runtime.bundle import Bundle, EngineFile, open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.errors import UserError
from edge_runtime.pipeline import Pipeline
from edge_runtime.signing_keys import generate_keys
from tests.build_engines.calling import call


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped bundle with engines, which no device would take, but a thinner must carry."""
    shipped = open_bundle(bundle_path("shipped:vehicle"), allow_unsigned=True)
    manifest, engines = shipped.manifest, []
    files = {name: shipped.read(name) for name in manifest.files}
    plan = shipped.plan("tensorrt")
    for stage in manifest.stages:
        for precision in stage.files:
            name = f"engines/{stage.name}.{precision}.engine"
            files[name] = f"{stage.name} {precision}".encode()
            digest = hashlib.sha256(files[stage.files[precision]]).hexdigest()
            engines.append(EngineFile(stage.name, precision, "tensorrt", "10.3.0", ("8.7", "8.9"), digest, name))
    assert set(plan.values()) != {"fp32"}
    made = msgspec.structs.replace(manifest, engines=tuple(engines))
    return write_bundle(tmp_path_factory.mktemp("whole") / "vehicle", made, files)


def _probabilities(bundle: Bundle, target: str) -> dict[str, float]:
    picture = np.random.default_rng(0).integers(0, 256, (360, 640, 3)).astype(np.uint8)
    inputs: dict[str, Any] = {"camera.front": picture, "text": "turn left"}
    with closing(Pipeline(bundle, plan=bundle.plan(target))) as pipeline:
        return dict(pipeline.predict(inputs).verdict.probabilities)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_it_decides_as_the_whole_one_does_and_is_smaller(whole: Bundle, tmp_path: Path, target: str) -> None:
    thinned = thin(whole, target, "", True, tmp_path / "thin")
    assert thinned.plan(target) == whole.plan(target)
    assert _probabilities(thinned, target) == _probabilities(whole, target)
    graphs = {name for name in thinned.manifest.files if name.startswith("stages/")}
    assert graphs == {stage.files[whole.plan(target)[stage.name]] for stage in whole.manifest.stages}
    assert not thinned.manifest.engines and not [name for name in thinned.manifest.files if name.startswith("engines/")]
    assert {name for name in whole.manifest.files if name.startswith("report/")} <= set(thinned.manifest.files)


def test_engines_that_fit_are_kept_and_reports_may_go(whole: Bundle, tmp_path: Path) -> None:
    thinned = thin(whole, "tensorrt", "8.7", False, tmp_path / "thin")
    plan = whole.plan("tensorrt")
    assert {(engine.stage, engine.precision) for engine in thinned.manifest.engines} == set(plan.items())
    assert not [name for name in thinned.manifest.files if name.startswith("report/")]
    with pytest.raises(UserError, match=r"has no engine for 12\.0; it has some for 8\.7, 8\.9"):
        thin(whole, "tensorrt", "12.0", True, tmp_path / "none")
    with pytest.raises(UserError, match="is the bundle itself"):
        thin(whole, "tensorrt", "8.7", True, whole.path)


def test_the_command_signs_what_it_made(whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, public = generate_keys(tmp_path / "plant")
    arguments = ["thin", whole.path, "--for", "tensorrt", "--compute", "8.9", "--out", tmp_path / "thin"]
    assert call(monkeypatch, *arguments, "--key", secret) == 2  # whose it is, nobody said
    assert call(monkeypatch, *arguments, "--key", secret, "--allow-unsigned") == 0
    assert open_bundle(tmp_path / "thin", [public]).signed_by is not None
