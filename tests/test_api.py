from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import edge_runtime
from edge_runtime import Sink, Source
from edge_runtime.plugins import SINKS, SOURCES
from edge_runtime.publish.sink import Published
from tests import tiny
from tests.capture.test_sources import Inbox
from tests.conftest import wait_for

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (Path(__file__).parents[1] / "docs" / "api.md").read_text(), re.M | re.S)


def blocks(kind: str) -> list[str]:
    return [text for name, text in BLOCKS if name == kind]


def test_each_program_of_the_documentation_runs(tmp_path: Path) -> None:
    once, service, _ = blocks("python")
    said = []
    for program in (once, service):
        line = [sys.executable, "-c", program]
        result = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        said.append(result.stdout.split())
    assert float(said[0][1]) <= 1.0
    assert said[1][1:] == ["safe", "0"], "nothing was sent to it"


def test_the_documented_kinds_are_sources_and_sinks(tmp_path: Path) -> None:
    (tmp_path / "documented_kinds.py").write_text(blocks("python")[2])
    sys.path.insert(0, str(tmp_path))
    try:
        import documented_kinds  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    names = {"Ramp": documented_kinds.Ramp, "Lines": documented_kinds.Lines}
    (entries,) = (tomllib.loads(text)["project"]["entry-points"] for text in blocks("toml"))
    assert {value.split(":")[1] for value in (*entries[SOURCES].values(), *entries[SINKS].values())} == set(names)
    inbox = Inbox()
    source: Source = names["Ramp"](documented_kinds.Ramp.Settings("sensors"), inbox.intake, tiny.STREAMS)
    source.start()
    wait_for(lambda: inbox.captured("sensors") >= 2, "two values")
    source.stop(10.0)
    sink: Sink = names["Lines"](documented_kinds.Lines.Settings(str(tmp_path / "lines")))
    sink.publish(Published(None, b"decision.x", b"{}"))  # type: ignore[arg-type]
    sink.close()
    assert (tmp_path / "lines").read_bytes() == b"{}\n"


def test_all_that_is_promised_is_there_and_nothing_is_loaded_before() -> None:
    assert all(getattr(edge_runtime, name) for name in edge_runtime.__all__)
    code = "import edge_runtime, sys; print([m for m in ('numpy', 'zmq', 'cv2', 'msgspec') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
