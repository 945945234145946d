from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from build_engines.pretrained.tensors import fill, read_tensors
from edge_runtime.errors import UserError

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([7, 8])}


def written(folder: Path, kind: str) -> Path:
    path = folder / f"w.{kind}"
    if kind == "safetensors":
        save_file(STATE, path)
    elif kind == "npz":
        np.savez(path, **{name: value.numpy() for name, value in STATE.items()})
    else:
        torch.save(STATE, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pth"])
def test_every_form_of_weights_gives_the_same_tensors(tmp_path: Path, kind: str) -> None:
    tensors = read_tensors(written(tmp_path, kind))
    assert tensors.keys() == STATE.keys()
    assert all(torch.equal(tensors[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pth"])
@pytest.mark.parametrize("left", [0, 10, 100])
def test_a_torn_file_is_refused(tmp_path: Path, kind: str, left: int) -> None:
    path = written(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(path)


class _Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("trap",)


def test_code_in_a_file_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Trap()}, tmp_path / "trap.pth")
    np.savez(tmp_path / "trap.npz", a=np.array([_Trap()], object))
    for name in ("trap.pth", "trap.npz"):
        with pytest.raises(UserError, match="cannot be read"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "trap").exists()


def test_something_else_than_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(UserError, match="hold no state dict"):
        read_tensors(tmp_path / "list.pt")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    theirs = {"w": torch.ones(2, 3), "bias": torch.ones(2), "more": torch.ones(9)}
    fill(network, theirs, {"weight": "w"}, tmp_path)
    assert torch.equal(network.weight, theirs["w"])
    with pytest.raises(UserError, match="lack weight"):
        fill(network, theirs, {}, tmp_path)
    with pytest.raises(UserError, match=r"bias is \[3\], not \[2\]"):
        fill(network, theirs | {"bias": torch.ones(3)}, {"weight": "w"}, tmp_path)
