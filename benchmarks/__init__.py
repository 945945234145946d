"""Measurements: ratios taken side by side in one run, held to `budgets.toml`."""

import edge_runtime  # noqa: F401  # first of all: it sets what ONNX Runtime reads when it is imported
