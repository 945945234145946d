"""What tells one kind of machine from another."""

from __future__ import annotations

import platform
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edge_runtime.machine_kind import MachineKind, instructions, machine_kind

ONE = MachineKind("x86_64", ("avx2", "fma"), {"numpy": "2.1", "onnxruntime": "1.20"})


def test_this_machine_is_its_own_kind() -> None:
    here = machine_kind()
    assert here.differences(msgspec.json.decode(msgspec.json.encode(here), type=MachineKind)) == []
    assert here.architecture == platform.machine()
    assert (here.libraries["numpy"], here.libraries["opencv"]) == (np.__version__, cv2.__version__)
    if Path("/proc/cpuinfo").exists() and here.architecture in {"x86_64", "aarch64"}:
        assert {"avx2", "asimd", "sse4_1"} & set(here.instructions)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "aarch64", "instructions": ("asimd",)}, ["x86_64 there, aarch64 here"]),
        ({"instructions": ("avx2", "avx512f")}, ["instructions: fma there only; avx512f here only"]),
        ({"libraries": {"numpy": "2.1", "onnxruntime": "1.21"}}, ["onnxruntime 1.20 there, 1.21 here"]),
        ({"libraries": {"numpy": "2.1"}}, ["onnxruntime 1.20 there, none here"]),
        ({"gpus": ("NVIDIA Orin",)}, ["no GPU there, NVIDIA Orin here"]),
        ({}, []),
    ],
)
def test_each_difference_is_told(changes: dict[str, object], words: list[str]) -> None:
    assert ONE.differences(msgspec.structs.replace(ONE, **changes)) == words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 sse4_1 avx512_vnni sha\nflags: none\n", ("sse4_1", "avx2", "avx512_vnni")),
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm i8mm\n", ("asimd", "i8mm")),
        ("", ()),
        ("flags\n", ()),
    ],
)
def test_instructions_are_read_as_linux_tells_them(text: str, found: tuple[str, ...]) -> None:
    assert instructions(text) == found
