"""How long stages take is measured in turns, on the engines that run them; the file says of which graphs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_runtime.bundle import open_bundle
from edge_runtime.cli.bundle import bundle as bundle_commands
from edge_runtime.errors import UserError
from edge_runtime.infer import ON_CPU
from edge_runtime.infer.engine import Engine
from edge_runtime.infer.onnxruntime_engine import OnnxRuntimeBackend, OnnxRuntimeEngine
from edge_runtime.infer.timing import ROUNDS, RUNS, graphs_of, measure, median_ms, read_times, write_times
from edge_runtime.messages import Tensors
from tests import tiny


class Watched(OnnxRuntimeBackend):
    """ONNX Runtime, which keeps what ran and what was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.closed: list[str] = []

    def open_engine(self, name: str, *rest: object) -> Engine:  # type: ignore[override]
        outer = self

        class Told(OnnxRuntimeEngine):
            def run(self, tensors: Tensors) -> Tensors:
                outer.ran.append(name)
                return super().run(tensors)

            def close(self) -> None:
                outer.closed.append(name)
                super().close()

        return Told(name, *rest[:4])  # type: ignore[arg-type]


def test_graphs_take_turns_and_are_all_closed(tiny_bundle_path: Path) -> None:
    bundle = open_bundle(tiny_bundle_path, allow_unsigned=True)
    graphs = graphs_of(bundle, bundle.plan("onnxruntime"))
    backend = Watched()
    times = median_ms(backend, graphs)
    names = [graph.name for graph in graphs]
    assert len(times) == len(names) > 1 and all(ms > 0 for ms in times)
    turns = backend.ran[-ROUNDS * len(names) * (RUNS + 1) :]
    assert turns == [name for _ in range(ROUNDS) for name in names for _ in range(RUNS + 1)]
    assert sorted(backend.closed) == sorted(names)


def test_a_machine_s_times_are_of_the_very_graphs(tiny_bundle_path: Path, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle_path, allow_unsigned=True)
    times = measure(bundle, ON_CPU)
    assert (times.target, times.backend) == ("onnxruntime", "onnxruntime")
    for stage, timed in zip(bundle.manifest.stages, times.stages, strict=True):
        assert (timed.stage, timed.precision) == (stage.name, "fp32")
        assert timed.sha256 == hashlib.sha256(bundle.read(stage.files["fp32"])).hexdigest()
    write_times(tmp_path / "here.json", times)
    assert read_times(tmp_path / "here.json") == times
    assert times.ms == pytest.approx(sum(stage.ms for stage in times.stages))


def test_the_command_tells_and_writes_them(tmp_path: Path) -> None:
    path = tiny.write_bundle(tmp_path / "b")
    out = tmp_path / "box.json"
    arguments = ["time", str(path), "--allow-unsigned", "--cpu", "--out", str(out)]
    said = CliRunner().invoke(bundle_commands, arguments, catch_exceptions=False)
    assert said.exit_code == 0 and "ms on onnxruntime" in said.output
    written = read_times(out)
    assert all(f"{stage.stage} fp32 {stage.ms:.3f} ms" in said.output for stage in written.stages)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 2}', json.dumps({"format": 1, "target": 3}).encode()])
def test_what_is_no_file_of_times_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "box.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match="is not what edge-runtime bundle time --out writes") as refusal:
        read_times(file)
    assert "\n" not in str(refusal.value)


def test_a_place_that_cannot_be_written_or_read_is_named(tiny_bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_times(tmp_path / "none.json")
    times = measure(open_bundle(tiny_bundle_path, allow_unsigned=True), ON_CPU)
    with pytest.raises(UserError, match="cannot be written"):
        write_times(tmp_path / "no" / "where.json", times)
