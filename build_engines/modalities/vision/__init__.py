"""Pictures of one or more cameras of one size: a convolutional network, a pass per camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from build_engines.modalities.faults import Fault
from build_engines.modalities.modality import Input, Modality, SampleRow
from build_engines.modalities.vision.faults import picture_faults
from build_engines.modalities.vision.files import read_image
from build_engines.modalities.vision.recipe import VisionRecipe
from build_engines.modalities.vision.shelf import NETWORKS, SHELF
from build_engines.pretrained.shelf import Origin, holds_network, network_files, origin_of, problem_of
from calibration.moments import Later, RawMessage
from edge_runtime.specs import CameraStream

if TYPE_CHECKING:
    from torch import nn


class Vision(Modality[VisionRecipe, CameraStream]):
    """In a row: `image`, a JPEG or PNG file."""

    spec = CameraStream
    recipe = VisionRecipe
    field = "image"
    inputs = {"image": Input("NHWC BGR 0..255", "image")}  # noqa: RUF012  # never changed
    batched = True
    steady = True

    def problem(self, recipe: VisionRecipe) -> str | None:
        if problem := problem_of(recipe, "model.vision", recipe.kind == "pretrained"):
            return problem
        if recipe.pixels is not None:
            if not holds_network(recipe):
                return "model.vision.pixels is for a network of its own in file (ONNX or TorchScript); leave it out"
            if problem := recipe.pixels.problem():
                return f"model.vision.{problem}"
        if recipe.depth and (recipe.kind != "pretrained" or holds_network(recipe)):
            return "model.vision.depth is for a pretrained network that is known here; leave it out"
        halvings = len(recipe.widths) - 1
        if recipe.kind != "residual" and recipe.blocks:
            return "model.vision.blocks is for kind = 'residual'; leave it out"
        if recipe.blocks and len(recipe.blocks) != halvings:
            count = len(recipe.blocks)
            return f"model.vision.blocks has {count} numbers; widths needs {halvings}, one for each but the first"
        return None

    def origin(self, recipe: VisionRecipe) -> Origin | None:
        return origin_of(recipe, SHELF, NETWORKS) if recipe.kind == "pretrained" else None

    def files(self, recipe: VisionRecipe) -> tuple[Path, ...]:
        return network_files(recipe)

    def network(self, recipe: VisionRecipe, spec: CameraStream, vocabulary: int, features: int) -> nn.Module:
        if recipe.kind == "pretrained":
            from build_engines.modalities.vision.pretrained import graph_vision, pretrained_vision

            if holds_network(recipe):
                return graph_vision(recipe, spec, features)
            return pretrained_vision(recipe, spec.height, spec.width, features)
        from build_engines.modalities.vision.network import VisionEncoder

        return VisionEncoder(recipe, spec.height, spec.width, features)

    def messages(self, name: str, spec: CameraStream, row: SampleRow) -> Iterator[RawMessage]:
        if file := row.fields.file(row.field):
            yield RawMessage(name, row.at_ns, Later(row.path(file), read_image))

    def faults(self, name: str, spec: CameraStream, tagged: bool) -> dict[str, Fault]:
        return picture_faults(name)
