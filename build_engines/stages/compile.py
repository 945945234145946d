"""Compilation: engines ahead of time."""

from __future__ import annotations

from build_engines.build import Build, model_bundle
from build_engines.stages.stage import BuildStage


def compile_stage(build: Build) -> None:
    """Engines for the recipe's targets, compiled without a GPU, and checked."""
    from build_engines.compile import compile_engines

    compile_engines(build, model_bundle(build), build.work / "engines")


def compiler_version() -> str:
    """Flavour and version of the library that compiles; empty where there is none."""
    from build_engines.compile import find_compiler

    compiler = find_compiler()
    return str(compiler) if compiler is not None else ""


STAGE = BuildStage(
    compile_stage,
    code=("build_engines.compile",),
    requires=lambda build: (build.model, "quantised"),
    ensures=lambda build: ("engines",),
    settings=lambda build: [build.recipe.compile, compiler_version()],
)
