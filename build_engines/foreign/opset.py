"""Bringing a graph's operators to the one opset that every target reads."""

from __future__ import annotations

import onnx
from onnx import ModelProto, NodeProto, version_converter

from build_engines.foreign.read import ONNX_DOMAINS, first_line, nodes_of
from edge_runtime.errors import UserError

OPSET, IR_VERSION = 20, 10
"""What TensorRT from 10.3 on and ONNX Runtime from 1.17 on read."""
OLDEST = 7
"""What ONNX Runtime goes back to (https://onnxruntime.ai/docs/reference/compatibility.html)."""


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next((entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS), 1)


def refuse_opset(model: ModelProto, where: str) -> None:
    """Raise UserError for a version that ONNX Runtime does not load, and for a node that came after opset 20."""
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset_of(model) <= newest:
        raise UserError(
            f"{where}: opset {opset_of(model)}; from {OLDEST} to {newest} are read: export it with opset {OPSET}"
        )
    for node in nodes_of(model.graph) if opset_of(model) > OPSET else ():
        if problem := newer_than(node):
            raise UserError(
                f"{where}: node {node.name or node.output[0]!r}: {problem}, and the targets read opset {OPSET}; export "
                f"it with opset {OPSET}"
            )


def to_opset(model: ModelProto, where: str) -> ModelProto:
    """`model`, which `refuse_opset` has let through, in opset 20. Raises UserError where it cannot be brought there.

    An older one is raised by ONNX's own converter. Of a newer one, most operators have changed only in the types that
    they take, and the converter does not know the way back of all: what `refuse_opset` has let through is allowed by
    the older definitions too, so the number alone is changed. `proof` holds that the answers stay what they were.
    """
    version = opset_of(model)
    if version == OPSET:
        return model
    if version < OPSET:
        try:
            return version_converter.convert_version(model, OPSET)
        except Exception as error:  # onnx raises RuntimeError and its own types
            raise UserError(
                f"{where}: cannot be raised from opset {version} to {OPSET} ({first_line(error)}); export it with "
                f"opset {OPSET}"
            ) from None
    for entry in model.opset_import:
        if entry.domain in ONNX_DOMAINS:
            entry.version = OPSET
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise UserError(
            f"{where}: is no graph of opset {OPSET} ({first_line(error)}); export it with opset {OPSET}"
        ) from None
    return model


def newer_than(node: NodeProto) -> str | None:
    """Why a node is not one of opset 20, or None."""
    try:
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    except onnx.defs.SchemaError:
        return f"{node.op_type} came after opset {OPSET}"
    if extra := sorted({attribute.name for attribute in node.attribute} - set(schema.attributes)):
        return f"{node.op_type} has the setting {extra[0]!r}, which came after opset {OPSET}"
    if len(node.input) > schema.max_input or len(node.output) > schema.max_output:
        return f"{node.op_type} has more inputs or outputs than in opset {OPSET}"
    return None
