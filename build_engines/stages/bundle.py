"""The bundle: signed, where the recipe's bundles go."""

from __future__ import annotations

import shutil

import msgspec

from build_engines.build import Build
from build_engines.stages.stage import BuildStage
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import GateRefused


def bundle_stage(build: Build) -> None:
    """The candidate that passed the gate, signed, where the recipe's bundles go."""
    from build_engines.gate.limits import VERDICT, Verdict
    from build_engines.thin import with_plan
    from build_engines.write_bundle import without_engines, write_bundle
    from edge_runtime.bundle import sign_bundle
    from edge_runtime.signing_keys import generate_keys

    candidate = open_bundle(build.work / "candidate", allow_unsigned=True)
    verdict = msgspec.json.decode((build.work / VERDICT).read_bytes(), type=Verdict)
    if not verdict.passed or verdict.bundle_digest != candidate.digest:
        raise GateRefused(f"bundle: {build.work / 'candidate'} is not what the gate passed; run with --from evaluate")
    files = {name: candidate.read(name) for name in candidate.manifest.files}
    manifest = candidate.manifest
    if not build.with_engines:
        manifest, files = without_engines(manifest, files)
    if build.recipe.slim:
        manifest, files = with_plan(manifest, files, candidate.plan("tensorrt"), manifest.engines)
    key = build.key or build.work / "signing.key"
    if build.key is None and not key.is_file():
        generate_keys(build.work / "signing")
        build.console.print(f"bundle: made a key pair; devices trust it by {key.with_suffix('.pem')}", highlight=False)
    write_bundle(build.bundle, manifest, files)
    bundle = sign_bundle(build.bundle, key)
    if build.key is None:
        shutil.copyfile(key.with_suffix(".pem"), build.bundle.with_suffix(".pem"))
    size = sum(len(data) for data in files.values())
    build.console.print(
        f"bundle: {build.bundle} ({bundle.digest[:12]}, {size / 1e6:.1f} MB), signed with {key}", highlight=False
    )


STAGE = BuildStage(
    bundle_stage,
    code=("build_engines.write_bundle", "build_engines.thin"),
    requires=lambda build: ("candidate",),
    ensures=lambda build: (),
    settings=lambda build: [str(build.bundle), str(build.key), build.with_engines, build.recipe.slim],
)
