"""TorchScript in place of ONNX: a network and its weights in one file, which is read without unpickling anything.

Of what torch saves, a state dict holds weights only, a pickled module is a program that runs when it is read, and
`torch.export.load` unpickles too; neither of the last two is opened.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from build_engines.foreign.opset import OPSET
from build_engines.foreign.read import first_line
from build_engines.quiet import quiet
from edge_runtime.errors import UserError

if TYPE_CHECKING:
    from torch.jit import ScriptModule


def is_torchscript(path: Path) -> bool:
    """Whether the file is what `torch.jit.save` writes: by the names in its archive alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    inside = [name.partition("/")[2] for name in names]
    return "constants.pkl" in inside and any(name.startswith("code/") for name in inside)


def load_torchscript(path: Path) -> ScriptModule:
    """The module, in eval mode. Raises UserError."""
    import torch

    try:
        with quiet():
            return torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call,no-any-return]
    except Exception as error:  # torn and hostile files make the library raise whatever its parser does
        raise UserError(f"{path}: TorchScript that cannot be read ({first_line(error)})") from None


def arguments_of(module: ScriptModule) -> list[str]:
    """What its `forward` takes, by name."""
    return [argument.name for argument in module.forward.schema.arguments[1:]]  # type: ignore[attr-defined]


def to_onnx(module: ScriptModule, examples: Sequence[NDArray[np.generic]], where: str) -> ModelProto:
    """The module as ONNX for inputs of the shapes of `examples`, its inputs called as its `forward` does, its outputs
    `output_0`, `output_1` and so on. Raises UserError."""
    import torch

    buffer = io.BytesIO()
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in examples)
    try:
        outputs = list(run(module, examples))
        with quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                tensors,
                buffer,  # type: ignore[arg-type]  # a file object is accepted by this exporter
                input_names=arguments_of(module)[: len(tensors)],
                output_names=outputs,
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # the exporter raises a family of unrelated types
        raise UserError(
            f"{where}: TorchScript that cannot be written as ONNX for inputs of "
            f"{', '.join(str(list(value.shape)) for value in examples)} ({first_line(error)})"
        ) from None
    return onnx.load_from_string(buffer.getvalue())


def run(module: ScriptModule, inputs: Sequence[NDArray[np.generic]]) -> dict[str, NDArray[Any]]:
    """What it says, called as `to_onnx` calls it. Raises what the module raises."""
    import torch

    with quiet(), torch.no_grad():
        answer = module(*(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs))
    return {f"output_{number}": value.numpy() for number, value in enumerate(_flat(answer))}


def _flat(answer: Any) -> Iterator[Any]:
    """The tensors of an answer in the order in which the exporter numbers them."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, (list, tuple)):
        for part in answer:
            yield from _flat(part)
    else:
        yield answer
