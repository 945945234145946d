"""The digest of a stage's code: what it covers, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_engines import code, stages
from build_engines.code import code_digest, reached, source_of

TRAIN = stages.TRAINED["train"].code
QUANTISE = stages.COMMON["quantise"].code


def digest_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, modules: tuple[str, ...]) -> str:
    """The digest of `modules` were `module` another."""
    path = source_of(module)
    assert path is not None
    (tmp_path / "changed.py").write_bytes(path.read_bytes() + b"\n# changed\n")
    with monkeypatch.context() as patch:
        patch.setattr(code, "source_of", lambda name: tmp_path / "changed.py" if name == module else source_of(name))
        return code_digest(modules)


@pytest.mark.parametrize(
    ("module", "train", "quantise"),
    [
        ("build_engines.model.train", True, False),
        ("build_engines.model.fused", True, False),
        ("build_engines.modalities.audio.network", True, True),
        ("build_engines.quantisation.quantise", False, True),
        ("calibration.ranges", False, True),
        ("build_engines.data.samples", True, True),
        ("edge_runtime.preprocess", True, True),
        ("build_engines.gate.judge", False, False),
        ("benchmarks.latency", False, False),
    ],
)
def test_a_changed_module_changes_the_stages_that_it_makes(
    module: str, train: bool, quantise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for modules, concerned in ((tuple(TRAIN), train), (tuple(QUANTISE), quantise)):
        assert (module in reached(modules)) == concerned
        if source_of(module) is not None:
            assert (digest_with(monkeypatch, tmp_path, module, modules) != code_digest(modules)) == concerned


def test_every_stage_names_modules_that_are_there() -> None:
    for table in (stages.TRAINED, stages.ADOPTED, stages.COMMON):
        for stage in table.values():
            assert stage.code and all(source_of(name) is not None for name in stage.code)


def test_other_versions_of_what_it_computes_with_are_another_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_digest(TRAIN)
    assert code_digest(TRAIN) == before
    monkeypatch.setattr(code, "_version", lambda library: "0.0.1")
    assert code_digest(TRAIN) != before
