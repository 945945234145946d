"""The build line: from labelled recordings to a bundle the device can trust. Never imported by the device."""

import edge_runtime  # noqa: F401  # first of all: it sets what ONNX Runtime reads when it is imported
