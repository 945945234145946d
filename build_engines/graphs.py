"""Small questions to ask of an ONNX graph."""

from __future__ import annotations

from collections import defaultdict

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference

from edge_runtime.errors import UserError
from edge_runtime.tensors import DType, TensorSpec

DTYPES: dict[int, DType] = {
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
}
"""Of what a device gives a graph and takes from it."""


def initialisers(graph: GraphProto) -> dict[str, TensorProto]:
    """Name to constant tensor."""
    return {tensor.name: tensor for tensor in graph.initializer}


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Tensor to the node that makes it."""
    return {name: node for node in graph.node for name in node.output}


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Tensor to the nodes that read it."""
    nodes: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            nodes[name].append(node)
    return nodes


def tensor_types(model: ModelProto) -> dict[str, int]:
    """Tensor to its element type, by shape inference."""
    graph = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def constants_to_initialisers(model: ModelProto) -> None:
    """Turn Constant nodes of a plain value into initialisers, in place: one way to hold a constant is enough."""
    remaining = []
    for node in model.graph.node:
        value = next((item for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = TensorProto()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            remaining.append(node)
    del model.graph.node[:]
    model.graph.node.extend(remaining)


def name_nodes(model: ModelProto) -> None:
    """Give every node a distinct name, in place; those that have one keep it."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)


def copied(model: ModelProto) -> ModelProto:
    """Another like it, to be changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def serialised(model: ModelProto) -> bytes:
    """The bytes of an ONNX file."""
    data: bytes = model.SerializeToString()
    return data


def tensor_spec(value: ValueInfoProto) -> TensorSpec:
    """Name, type and shape of a graph's input or output. Raises UserError for a type that no device takes."""
    kind = value.type.tensor_type
    if kind.elem_type not in DTYPES:
        type_name = TensorProto.DataType.Name(kind.elem_type)
        raise UserError(
            f"graph input or output {value.name!r} is {type_name}; allowed are {', '.join(DTYPES.values())}"
        )
    return TensorSpec(value.name, DTYPES[kind.elem_type], tuple(dim.dim_value for dim in kind.shape.dim))


def rename_made(model: ModelProto, old: str, new: str) -> None:
    """Call the tensor `old` `new`, wherever it is made or read, so that a new node can make `old`."""
    for node in model.graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
        node.input[:] = [new if name == old else name for name in node.input]
