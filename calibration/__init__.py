"""Between recordings and quantisation: which samples stand for the field. Imports the device, never the build."""

import edge_runtime  # noqa: F401  # first of all: it sets what ONNX Runtime reads when it is imported
