"""A digest of the source that makes a stage's results: changed code builds again, though no version changed."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module, metadata
from pathlib import Path

PROJECT = ("build_engines", "calibration", "edge_runtime")
"""Packages whose source counts. Of these and of others the version counts where LIBRARIES names it."""
LIBRARIES = ("edge-runtime", "numpy", "onnx", "onnxruntime", "torch")


def code_digest(modules: Iterable[str]) -> str:
    """sha256 (hex) over the source of `modules` (all modules of a package) and of all that they import of this project,
    anywhere in them, and over the versions of LIBRARIES that are installed.
    """
    total = hashlib.sha256()
    for name in sorted(reached(modules)):
        path = source_of(name)
        assert path is not None
        total.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    for library in LIBRARIES:
        total.update(f"{library} {_version(library)}\0".encode())
    return total.hexdigest()


def reached(modules: Iterable[str]) -> set[str]:
    """`modules`, their submodules, and every module of the project that these import, directly or not."""
    waiting, modules_reached = [inner for name in modules for inner in (name, *_inside(name))], set[str]()
    while waiting:
        name = waiting.pop()
        path = source_of(name)
        if name not in modules_reached and path is not None:
            modules_reached.add(name)
            waiting += _imports(name, path, path.stat().st_mtime_ns, path.stat().st_size)
    return modules_reached


def source_of(module: str) -> Path | None:
    """The file of a module of the project, None where it is none. Imports the package at its root alone."""
    root, *rest = module.split(".")
    if root not in PROJECT:
        return None
    base = Path(str(import_module(root).__file__)).parent.joinpath(*rest)
    files = (base / "__init__.py", base.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


def _inside(package: str) -> Iterator[str]:
    path = source_of(package)
    if path is not None and path.name == "__init__.py":
        for file in path.parent.glob("*.py"):
            yield f"{package}.{file.stem}"


@cache
def _imports(module: str, path: Path, changed_ns: int, size: int) -> tuple[str, ...]:
    """What the file imports, each with the packages that it is in; remembered while the file stays as it is."""
    del module, changed_ns, size
    imported = set[str]()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = {name for name in imported if name.split(".")[0] in PROJECT}
    return tuple(sorted({".".join(name.split(".")[:end]) for name in parts for end in range(1, name.count(".") + 2)}))


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
