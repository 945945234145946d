"""Small ONNX graphs for the tests of quantising: convolutions with a skip, weight matrices, an attention product."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge_runtime.infer.onnxruntime_engine import session_options


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int]]],
    outputs: dict[str, tuple[int, list[int]]],
    constants: dict[str, NDArray[Any]],
    opset: int = 20,
) -> ModelProto:
    """A checked model, IR version 10."""

    def info(items: dict[str, tuple[int, list[int]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in items.items()]

    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", info(inputs), info(outputs), tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def camera_net(seed: int = 0) -> ModelProto:
    """uint8 picture -> two convolutions with a skip around the second -> mean -> weight matrix."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"], name="scale_pixels"),
        helper.make_node("Transpose", ["scaled"], ["planes"], name="to_planes", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w0", "b0"], ["c0"], name="/encoder/layers.0/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="/encoder/layers.0/Relu"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], name="/encoder/layers.1/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c1", "r0"], ["sum"], name="/encoder/layers.1/Add"),
        helper.make_node("Relu", ["sum"], ["r1"], name="/encoder/layers.1/Relu"),
        helper.make_node("ReduceMean", ["r1", "axes"], ["pooled"], name="/encoder/Pool", keepdims=0),
        helper.make_node("Gemm", ["pooled", "w2", "b2"], ["features"], name="/encoder/head/Gemm", transB=1),
    ]
    constants = {
        "scale": np.float32(1 / 255),
        "w0": normal(16, 3, 3, 3),
        "b0": normal(16),
        "w1": normal(16, 16, 3, 3),
        "b1": normal(16),
        "axes": np.array([2, 3]),
        "w2": normal(16, 16),
        "b2": normal(16),
    }
    picture = {"image": (TensorProto.UINT8, [1, 12, 12, 3])}
    return model(nodes, picture, {"features": (TensorProto.FLOAT, [1, 16])}, constants)


def attention_net(seed: int = 0) -> ModelProto:
    """Two weight matrices, the product of what they give, a softmax, and the product with the input."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], name="/encoder/layers.0/query/MatMul"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="/encoder/layers.0/key/MatMul"),
        helper.make_node("Transpose", ["k"], ["kt"], name="/encoder/layers.0/Transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["weights"], name="/encoder/layers.0/MatMul"),
        helper.make_node("Add", ["weights", "mask"], ["masked"], name="/encoder/layers.0/Add"),
        helper.make_node("Softmax", ["masked"], ["shares"], name="/encoder/layers.0/Softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "x"], ["y"], name="/encoder/layers.0/MatMul_1"),
    ]
    mask = np.zeros((1, 1, 8), np.float32)
    mask[0, 0, 6:] = -1e9
    constants = {
        "wq": rng.normal(size=(16, 16)).astype(np.float32) / 4,
        "wk": rng.normal(size=(16, 16)).astype(np.float32) / 4,
        "mask": mask,
    }
    shape = [1, 8, 16]
    return model(nodes, {"x": (TensorProto.FLOAT, shape)}, {"y": (TensorProto.FLOAT, shape)}, constants)


def run(made: ModelProto, feeds: dict[str, NDArray[Any]], outputs: list[str] | None = None) -> list[NDArray[Any]]:
    """What ONNX Runtime makes of it, node by node."""
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), session_options(1, "int8"), providers=["CPUExecutionProvider"]
    )
    return list(session.run(outputs, feeds))


def ranges(made: ModelProto, feeds: list[dict[str, NDArray[Any]]], names: list[str]) -> dict[str, float]:
    """Largest absolute value of each of `names` over `feeds`."""
    seen = ModelProto()
    seen.CopyFrom(made)
    seen.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    found = dict.fromkeys(names, 0.0)
    for feed in feeds:
        for name, value in zip(names, run(seen, feed, names), strict=True):
            found[name] = max(found[name], float(np.abs(value).max()))
    return found


def pictures(count: int, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    """Feeds of random pictures for `camera_net`."""
    rng = np.random.default_rng(seed)
    return [{"image": rng.integers(0, 256, (1, 12, 12, 3), np.uint8)} for _ in range(count)]
