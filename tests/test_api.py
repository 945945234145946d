from __future__ import annotations

import subprocess
import sys

import edge_runtime


def test_all_that_is_promised_is_there_and_nothing_is_loaded_before() -> None:
    assert all(getattr(edge_runtime, name) for name in edge_runtime.__all__)
    code = "import edge_runtime, sys; print([m for m in ('numpy', 'zmq', 'cv2', 'msgspec') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
