"""Logits of what comes out: a softmax or sigmoid at the end is taken off, for the head has its own.

Behind a softmax, FP16 and INT8 round small probabilities to zero, whose logarithm is minus infinity; before it they
cannot. Temperature and thresholds are fitted on what the network itself is sure of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from build_engines.graphs import copied, initialisers, producers, rename_made, tensor_types
from edge_runtime.errors import UserError

SMALLEST_PROBABILITY = 1e-12
_ENDS = {"softmax": "Softmax", "sigmoid": "Sigmoid"}
"""Kind of a head to the operator that does the same."""
_SHAPE_ONLY = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout")
"""Operators behind which an output's values are still what they were."""


class End(NamedTuple):
    """What does what a head does, behind the logits."""

    words: str
    """What it is, for people."""
    logits: str
    """The tensor before it."""
    made: str
    """The tensor that it makes."""
    number: bool = False
    """Whether that is the number of the best label alone."""


def find_end(model: ModelProto, name: str, head: str) -> End | None:
    """What does the same as a head of kind `head` before the output `name`; None where there is nothing of the sort."""
    made = producers(model.graph)
    node = _behind_shapes(made, name)
    if node is None:
        return None
    called = repr(node.name or node.output[0])
    if node.op_type == _ENDS.get(head):
        return End(f"{node.op_type} (node {called})", node.input[0], node.output[0])
    if head == "softmax" and node.op_type == "ArgMax":
        return End(f"{node.op_type} (node {called})", node.input[0], name, number=True)
    if head == "softmax" and node.op_type == "Div" and _is_written_out_softmax(made, node):
        return End(f"a softmax written out (up to node {called})", made[node.input[0]].input[0], node.output[0])
    return None


AVERAGED = (
    "FP16 and INT8 round each to 0 or 1 before it is averaged, and no threshold sees more than that; average the "
    "logits, or export each member and fuse them"
)
"""What is said of probabilities that cannot be taken back to logits one by one."""
_MEANS = ("Mean", "ReduceMean", "AveragePool", "GlobalAveragePool")
_SUMS = ("Add", "Sum", "ReduceSum")


def averaged_shares(model: ModelProto, name: str) -> str:
    """In words, what averages the results of sigmoids or softmaxes to the output `name`: nothing can be taken off
    there. Empty where nothing does."""
    made, constants = producers(model.graph), initialisers(model.graph)
    node = _behind_shapes(made, name)
    while node is not None and node.op_type in ("Mul", "Div") and node.input[1] in constants:
        node = _behind_shapes(made, node.input[0])  # a sum is scaled to a mean
    if node is None or node.op_type not in (*_MEANS, *_SUMS):
        return ""
    waiting, seen = list(node.input), set[str]()
    while waiting:
        tensor = waiting.pop()
        inner = _behind_shapes(made, tensor)
        if inner is None or inner.output[0] in seen:
            continue
        seen.add(inner.output[0])
        if inner.op_type in _ENDS.values():
            return f"{node.op_type} (node {node.name or node.output[0]!r}) of what {inner.op_type} makes"
        scaled = inner.op_type in ("Mul", "Div") and inner.input[1] in constants
        if scaled or inner.op_type in (*_SUMS, "Concat"):
            waiting += inner.input
    return ""


def take_off(model: ModelProto, end: End) -> None:
    """Let the logits take the place of what `end` makes, in place."""
    _rename_reads(model, end.made, end.logits)


def logits_of_probabilities(model: ModelProto, name: str, head: str, where: str) -> None:
    """Make logits of the probabilities that the output `name` holds, in place: their logarithms for a softmax head, for
    a sigmoid one log(p / (1 - p)). Raises UserError for a head that has no probabilities.
    """
    if head not in _ENDS:
        raise UserError(f"{where}: onnx.probabilities is for a softmax or sigmoid head; the head is {head!r}")
    graph = model.graph
    rename_made(model, name, f"{name}/probability")
    kind = helper.tensor_dtype_to_np_dtype(next(v for v in graph.output if v.name == name).type.tensor_type.elem_type)
    limits = np.finfo(kind)
    smallest = np.array(max(SMALLEST_PROBABILITY, float(limits.tiny)), kind)
    graph.initializer.append(numpy_helper.from_array(smallest, f"{name}/smallest"))
    graph.node.append(helper.make_node("Max", [f"{name}/probability", f"{name}/smallest"], [f"{name}/positive"]))
    if head == "softmax":
        graph.node.append(helper.make_node("Log", [f"{name}/positive"], [name]))
        return
    graph.initializer.append(numpy_helper.from_array(np.array(1, kind), f"{name}/one"))
    graph.node.extend(
        [
            helper.make_node("Sub", [f"{name}/one", f"{name}/probability"], [f"{name}/rest"]),
            helper.make_node("Max", [f"{name}/rest", f"{name}/smallest"], [f"{name}/other"]),
            helper.make_node("Div", [f"{name}/positive", f"{name}/other"], [f"{name}/odds"]),
            helper.make_node("Log", [f"{name}/odds"], [name]),
        ]
    )


def as_logits(model: ModelProto, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Give the output `name`, of `shape`, the shape and type that a head reads, in place."""
    graph = model.graph
    value = next(value for value in graph.output if value.name == name)
    if shape != wanted:
        rename_made(model, name, f"{name}/shaped")
        graph.initializer.append(numpy_helper.from_array(np.array(wanted, np.int64), f"{name}/wanted"))
        graph.node.append(helper.make_node("Reshape", [f"{name}/shaped", f"{name}/wanted"], [name]))
    if value.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        rename_made(model, name, f"{name}/typed")
        graph.node.append(helper.make_node("Cast", [f"{name}/typed"], [name], to=TensorProto.FLOAT))
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    value.type.tensor_type.ClearField("shape")


def _behind_shapes(made: Mapping[str, NodeProto], name: str) -> NodeProto | None:
    """The node whose values the tensor `name` holds."""
    node = made.get(name)
    while node is not None and node.op_type in _SHAPE_ONLY:
        node = made.get(node.input[0])
    return node


def _is_written_out_softmax(made: Mapping[str, NodeProto], node: NodeProto) -> bool:
    """Whether `node` divides exponentials by their sum."""
    above, below = made.get(node.input[0]), _behind_shapes(made, node.input[1])
    return (
        above is not None
        and above.op_type == "Exp"
        and below is not None
        and below.op_type == "ReduceSum"
        and below.input[0] == above.output[0]
    )


def _rename_reads(model: ModelProto, old: str, new: str) -> None:
    """Let all that reads the tensor `old` read `new`; an output of that name is given on from it."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    if any(value.name == old for value in graph.output):
        for node in graph.node:
            node.output[:] = [f"{name}/taken_off" if name == old else name for name in node.output]
        graph.node.append(helper.make_node("Identity", [new], [old]))
    without = copied(model)
    del without.graph.output[:]  # what they are said to be may be so no more
    types = tensor_types(without)
    for value in graph.output:
        value.type.tensor_type.elem_type = types.get(value.name, value.type.tensor_type.elem_type)
        value.type.tensor_type.ClearField("shape")
