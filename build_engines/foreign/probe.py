"""Whether ONNX Runtime can open a graph, found out in a process of its own (`python -m` this module FILE).

On some graphs with branches inside it does not raise but crashes, and takes the build with it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from onnx import ModelProto

from build_engines.foreign.read import first_line, nodes_of
from build_engines.graphs import serialised
from edge_runtime.errors import UserError


def probe(model: ModelProto, where: str) -> None:
    """Raise UserError if opening `model` crashes; what it raises is left to who opens it. A graph without others inside
    is believed.
    """
    if not any(attribute.g.node or attribute.graphs for node in nodes_of(model.graph) for attribute in node.attribute):
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        file.write_bytes(serialised(model))
        command = [sys.executable, "-m", "build_engines.foreign.probe", str(file)]
        ended = subprocess.run(command, capture_output=True, check=False)
    if ended.returncode < 0:
        raise UserError(
            f"{where}: ONNX Runtime crashes on its branches (signal {-ended.returncode}); export it without control "
            "flow, by tracing it for the inputs that it will get"
        )


def main(file: str) -> None:
    """Open the graph in `file` both ways that the build does."""
    import onnx

    from build_engines.foreign.proof import open_session

    model = onnx.load(file)
    for optimise in (False, True):
        try:
            open_session(model, file, optimise)
        except UserError as error:
            print(first_line(error))


if __name__ == "__main__":
    main(sys.argv[1])
