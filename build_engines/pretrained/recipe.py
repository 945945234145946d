"""The keys that say whose network an encoder is."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class PretrainedKeys(Struct, frozen=True, kw_only=True):
    """What `kind = "pretrained"` adds to an encoder's keys."""

    package: str = ""
    """Of kind `pretrained`: the installed package that holds the network, `NAME==VERSION`."""
    file: str = ""
    """Instead of a package, relative to the recipe: the network itself, as ONNX or TorchScript, or the weights of one
    that is known here."""
    network: str = ""
    """What the weights in `file` are of, where it holds weights alone."""
    output: str = ""
    """Of a network in `file`: which of its outputs holds the features; empty = the first."""
    sha256: str = ""
    """Of `file`, in hexadecimal; checked where it is given."""
    licence: str = ""
    """Of what `file` holds, SPDX where there is one."""
    licence_file: str = ""
    """The text that must go with it, relative to the recipe; empty = LICENSE, NOTICE and COPYING beside `file`."""
    unfreeze: Annotated[int, Meta(ge=0)] = 0
    """How many of the pretrained network's last blocks learn on; the rest stays as it is."""
    unfreeze_rate: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """Their learning rate, as a part of `train.learning_rate`."""
    views: Annotated[int, Meta(ge=0)] = 4
    """How many versions of each picture the frozen blocks see, the picture itself and changed ones (`train.augment`);
    what they make of each is computed once and kept. 0 = a fresh version in every epoch, nothing kept."""


FILES = ("file", "licence_file", "tokenizer")
"""Keys of encoders that hold a path."""
