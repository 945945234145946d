"""`python -m benchmarks.gpu`: the same as `python -m benchmarks gpu`, without the other benchmarks' libraries."""

from __future__ import annotations

import sys

from benchmarks.gpu.command import gpu
from edge_runtime.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command(gpu))
