"""The bundle: the one contract between the build machine and the device.

A directory (or the same as one `.tar`) with `manifest.json`, `stages/<stage>.<precision>.onnx`, `tokenizer.model` or
`tokenizer.json`, `report/`, perhaps `engines/`, and `model.sig`. The manifest holds the sha256 of every other file;
`model.sig` holds those and the manifest's, signed by the OpenSSF model-signing specification. The manifest is parsed
after its signature is verified (without one only where the caller allows unsigned bundles), every file after its
digest; a file that is not signed for is refused. Nothing is unpickled or evaluated, but a compiled engine is code that
TensorRT runs: whoever signs it must be trusted as its author.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edge_runtime.archive import list_members, read_member
from edge_runtime.errors import BundleError
from edge_runtime.heads import Head
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.model_signature import (
    MAX_FILES,
    MAX_SIGNATURE_BYTES,
    MODEL_SIGNATURE,
    Statement,
    sign_files,
    verify_signature,
)
from edge_runtime.plain_file import list_files, read_plain
from edge_runtime.signing import verify
from edge_runtime.signing_keys import load_trusted_keys
from edge_runtime.specs import CLIP_SIGMA
from edge_runtime.streams import Name, StreamSpec, kind, kind_of
from edge_runtime.tensor_source import TensorSource, parse_source, stage_output
from edge_runtime.tensors import DType, TensorSpec, fits
from edge_runtime.tokenizer import TOKENIZER as TOKENIZER  # noqa: PLC0414  # a name of the format, given on
from edge_runtime.tokenizer import TOKENIZER_JSON as TOKENIZER_JSON  # noqa: PLC0414

log = logging.getLogger("edge_runtime")

MANIFEST = "manifest.json"
LICENCES = "licences/"
"""Below it: texts that must go with what others made and the bundle holds, a file each."""
SIGNATURE = "SIGNATURE"
"""The earlier form of signature: `signing`."""
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 2 << 30
"""No ONNX file is larger (https://protobuf.dev/programming-guides/proto-limits/)."""


_AS_BEFORE = {
    "fit": "stretch",
    "scaling": "whole",
    "clip": CLIP_SIGMA,
    "tokenizer": "sentencepiece",
    "sentence_pieces": 0,
}
"""What a stream does that says nothing of it."""


class StageInput(Struct, frozen=True, forbid_unknown_fields=True):
    """One input of a stage and where it comes from.

    `source` is `stream:<stream>:<field>` (the fields are those of the stream's kind), `stage:<stage>:<output>`, or
    `presence`; a list of sources is stacked along the first axis.
    """

    name: str
    dtype: DType
    shape: tuple[Annotated[int, Meta(ge=1)], ...]
    source: str | tuple[str, ...]
    layout: str = ""

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        """What it is made of. Raises ValueError where one is no source; a bundle's are checked when it is opened."""
        return (parse_source(self.source),) if isinstance(self.source, str) else tuple(map(parse_source, self.source))

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape, self.layout)


class Stage(Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX graph; `files` maps a precision (`fp32`, `fp16`, `int8`...) to its path in the bundle."""

    name: Name
    inputs: tuple[StageInput, ...]
    outputs: tuple[TensorSpec, ...]
    files: dict[str, str]

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        """All that its inputs are made of, in order."""
        return tuple(source for item in self.inputs for source in item.sources)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams it reads, each once."""
        return tuple(dict.fromkeys(source.name for source in self.sources if source.kind == "stream"))

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages whose outputs it reads, each once."""
        return tuple(dict.fromkeys(source.name for source in self.sources if source.kind == "stage"))


class EngineFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One stage's graph compiled ahead of time for named GPUs; a device that it does not fit builds its own."""

    stage: Name
    precision: str
    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    """Full version of the library that made it, which must be the device's own."""
    compute: tuple[Annotated[str, Meta(pattern=r"^\d+\.\d+$")], ...]
    """Compute capabilities it was made for, e.g. `8.6`."""
    onnx_sha256: str
    """Digest of the graph it was made from."""
    file: str


class SideHead(Struct, frozen=True, forbid_unknown_fields=True):
    """A head beside the first: its answers are told with the decision, by name, and act on nothing."""

    name: Name
    head: Head
    decision: DecisionPolicy


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.json`."""

    format: Literal[1]
    name: Name
    version: str
    head: Head
    """The one that acts."""
    trigger: str
    """The stream whose messages cause decisions."""
    streams: dict[Name, StreamSpec]
    stages: tuple[Stage, ...]
    """In the order they run: a stage comes after those it takes from."""
    decision: DecisionPolicy
    precision: dict[str, dict[str, str]]
    """Per target (`default`, or a back end's name): stage to precision."""
    files: dict[str, str]
    """Path in the bundle to sha256 (hex) of every file but the manifest and the signature."""
    presence: tuple[str, ...] = ()
    """The streams behind the `presence` tensor, in order."""
    description: str = ""
    licence: str = ""
    attribution: tuple[str, ...] = ()
    training: dict[str, str] = {}
    """Digests of recipe, training and calibration data, and the versions of what built it."""
    engines: tuple[EngineFile, ...] = ()
    """Compiled ahead of time; may be empty: engines are then built on the device."""
    figures: dict[str, float] = {}
    """The gate's figures on the evaluation split."""
    side_heads: tuple[SideHead, ...] = ()

    @property
    def streams_read(self) -> tuple[str, ...]:
        """The streams that any stage reads, in the manifest's order."""
        read = {name for stage in self.stages for name in stage.streams}
        return tuple(name for name in self.streams if name in read)


class Bundle:
    """A verified bundle. `read` gives a file's bytes, checked against the manifest each time.

    Thread: any (immutable after construction).
    """

    def __init__(self, path: Path, manifest: Manifest, digest: str, signed_by: str | None) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        """sha256 (hex) of the manifest's bytes, which covers every file."""
        self.signed_by = signed_by
        """Name of the trusted key that signed it, or None for an unsigned bundle."""

    def read(self, name: str) -> bytes:
        """The verified bytes of one file.

        Raises BundleError if the manifest does not list it, or its bytes are not the listed ones.
        """
        expected = self.manifest.files.get(name)
        if expected is None:
            raise BundleError(f"bundle {self.path}: {name!r} is not listed in its manifest; rebuild the bundle")
        data = _read_raw(self.path, name)
        actual = hashlib.sha256(data).hexdigest()
        if not hmac.compare_digest(actual, expected):
            raise BundleError(
                f"bundle {self.path}: {name} has sha256 {actual[:12]}.., the manifest says {expected[:12]}..; "
                "it was changed or cut short: copy the bundle again from where it was built"
            )
        return data

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Every file as it was verified, and the signatures as they are now: what makes the same bundle elsewhere.

        Raises BundleError where one was changed since.
        """
        raw = _read_raw(self.path, MANIFEST, limit=MAX_MANIFEST_BYTES)
        if hashlib.sha256(raw).hexdigest() != self.digest:
            raise BundleError(f"bundle {self.path}: {MANIFEST} was changed after it was opened; try again")
        yield MANIFEST, raw
        there = _contents(self.path)
        for name in (MODEL_SIGNATURE, SIGNATURE):
            if name in there:
                yield name, _read_raw(self.path, name, limit=MAX_SIGNATURE_BYTES)
        for name in self.manifest.files:
            yield name, self.read(name)

    def plan(self, target: str) -> dict[str, str]:
        """Stage to precision for `target` (a back end's name), as the build chose it."""
        return self.manifest.precision.get(target, self.manifest.precision["default"])


def open_bundle(path: Path, trusted_keys: Sequence[Path] = (), allow_unsigned: bool = False) -> Bundle:
    """Verify and read the bundle at `path` (a directory or a `.tar`).

    `trusted_keys` are PEM files of public keys, or folders of them (see `signing_keys`). Raises BundleError (one line:
    what, and what to do) if the signature is missing or wrong, any file differs from what was signed or from the
    manifest, or the manifest is not one this runtime knows.
    """
    raw = _read_raw(path, MANIFEST, limit=MAX_MANIFEST_BYTES)
    signed_by, statement = _verify_signature(path, raw, trusted_keys, allow_unsigned)
    digest = hashlib.sha256(raw).hexdigest()
    if statement is not None:
        _check_contents(path, statement, digest)
    manifest = parse_manifest(raw, str(path))
    if statement is not None and statement.digests != manifest.files | {MANIFEST: digest}:
        raise BundleError(f"bundle {path}: {MODEL_SIGNATURE} and {MANIFEST} list different files; sign it again")
    bundle = Bundle(path, manifest, digest, signed_by)
    for name in manifest.files:
        bundle.read(name)
    return bundle


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Read and check a manifest's bytes. Raises BundleError."""
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(f"bundle {where}: {MANIFEST} is not a manifest this runtime knows: {error}") from None
    try:
        problem = next(_problems(manifest), None)
    except ValueError as error:  # a source that is none
        problem = str(error)
    if problem is not None:
        raise BundleError(f"bundle {where}: {problem}")
    return manifest


def _read_raw(path: Path, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
    if name.startswith("/") or ".." in Path(name).parts:
        raise BundleError(f"bundle {path}: file name {name!r} leaves the bundle; it was not built by this project")
    try:
        if path.is_dir():
            return read_plain(path / name, limit)
        if path.exists():
            return read_member(path, name, limit, MANIFEST)
    except OSError as error:
        reason = error.strerror or error
        raise BundleError(f"bundle {path}: cannot read {name} ({reason}); copy the bundle again") from None
    raise BundleError(f"bundle {path}: no such directory or .tar; check the path in `bundle`")


def _contents(path: Path) -> dict[str, bool]:
    """Name of everything in the bundle but folders, to whether it is a plain file. Raises BundleError."""
    try:
        return list_files(path, MAX_FILES) if path.is_dir() else list_members(path, MANIFEST)
    except OSError as error:
        raise BundleError(f"bundle {path}: cannot be listed ({error.strerror or error}); copy it again") from None


def _verify_signature(
    path: Path, manifest: bytes, trusted_keys: Sequence[Path], allow_unsigned: bool
) -> tuple[str | None, Statement | None]:
    """Who signed, and what, where it says more than the manifest."""
    if not trusted_keys and allow_unsigned:
        return None, None
    contents = _contents(path)
    if MODEL_SIGNATURE in contents:
        raw = _read_raw(path, MODEL_SIGNATURE, limit=MAX_SIGNATURE_BYTES)
        return verify_signature(raw, load_trusted_keys(trusted_keys), str(path))
    if SIGNATURE in contents:
        raw = _read_raw(path, SIGNATURE, limit=4096)
        signed_by = verify(manifest, raw, load_trusted_keys(trusted_keys), str(path))
        log.warning(
            "bundle %s: signed in the earlier form (%s), which is taken until the next release; "
            "sign it again with `edge-runtime bundle sign`",
            path,
            SIGNATURE,
        )
        return signed_by, None
    if allow_unsigned:
        return None, None
    raise BundleError(
        f"bundle {path}: it is not signed; sign it, or set allow_unsigned = true (--allow-unsigned) to trust it"
    )


def _check_contents(path: Path, statement: Statement, manifest_sha256: str) -> None:
    """Hold what is there against what was signed, before the manifest is parsed. Raises BundleError."""
    contents = _contents(path)
    signatures = {MODEL_SIGNATURE, *statement.predicate.serialization.ignore_paths} & {MODEL_SIGNATURE, SIGNATURE}
    strange = sorted(contents.keys() - statement.digests.keys() - signatures)
    strange += sorted(name for name in statement.digests if not contents.get(name, True))
    if strange:
        raise BundleError(
            f"bundle {path}: {strange[0]!r:.200} is in it and was not signed, as a plain file; remove it, or copy the "
            "bundle again"
        )
    if statement.digests.get(MANIFEST) != manifest_sha256:
        raise BundleError(f"bundle {path}: {MANIFEST} was changed after it was signed; copy the bundle again")


def sign_bundle(path: Path, private_key: Path) -> Bundle:
    """Write `model.sig` into the bundle directory `path`, after checking every file. Raises UserError."""
    if not path.is_dir():
        raise BundleError(f"bundle {path}: only a bundle directory can be signed; pack the .tar afterwards")
    bundle = open_bundle(path, allow_unsigned=True)
    manifest = bundle.manifest
    digests = manifest.files | {MANIFEST: bundle.digest}
    contents = _contents(path)
    if strange := sorted(contents.keys() - digests.keys() - {MODEL_SIGNATURE, SIGNATURE}):
        raise BundleError(f"bundle {path}: {strange[0]!r:.200} is not listed in its manifest; remove it, then sign")
    if links := sorted(name for name in digests if not contents.get(name)):
        raise BundleError(f"bundle {path}: {links[0]} is no plain file; put the file itself there, then sign")
    about = {
        "version": manifest.version,
        "licence": manifest.licence,
        "attribution": list(manifest.attribution),
        "training": manifest.training,
    }
    ignored = [MODEL_SIGNATURE, *([SIGNATURE] if SIGNATURE in contents else [])]
    signed = sign_files(path.resolve().name or manifest.name, digests, private_key, ignored, about)
    (path / MODEL_SIGNATURE).write_bytes(signed)
    return bundle


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield what contradicts itself in a manifest, worst first."""
    streams = manifest.streams
    if manifest.trigger not in streams:
        yield f"trigger {manifest.trigger!r} is none of the streams {sorted(streams)}"
    if unknown := [name for name in manifest.presence if name not in streams]:
        yield f"presence names {unknown}, which are no streams"
    yield from _stream_problems(streams)
    for name, spec in streams.items():
        for file in kind_of(spec).files(spec):
            if file not in manifest.files:
                yield f"stream {name}: a {kind(spec)} stream needs {file}"
    outputs: dict[TensorSource, TensorSpec] = {}
    yield from _stage_problems(manifest, outputs)
    yield from _head_problems(manifest.head, manifest.decision, streams, outputs)
    if twice := _twice(side.name for side in manifest.side_heads):
        yield f"side_heads: there are two called {twice!r}"
    for side_head in manifest.side_heads:
        for problem in _head_problems(side_head.head, side_head.decision, streams, outputs, acts=False):
            yield f"side head {side_head.name}: {problem}"
    yield from _plan_problems(manifest)
    yield from _engine_problems(manifest)


def _stage_problems(manifest: Manifest, outputs: dict[TensorSource, TensorSpec]) -> Iterator[str]:
    """Of the stages; what they give is added to `outputs`."""
    if twice := _twice(stage.name for stage in manifest.stages):
        yield f"stages: there are two called {twice!r}"
    for stage in manifest.stages:
        for direction, names in (
            ("input", [item.name for item in stage.inputs]),
            ("output", [out.name for out in stage.outputs]),
        ):
            if twice := _twice(names):
                yield f"stage {stage.name}: there are two {direction}s called {twice!r}"
            if not names:
                yield f"stage {stage.name}: it has no {direction}"
        for item in stage.inputs:
            yield from _input_problems(manifest, stage, item, outputs)
        outputs |= {stage_output(stage.name, out.name): out for out in stage.outputs}
        for file in stage.files.values():
            if file not in manifest.files:
                yield f"stage {stage.name}: file {file!r} has no digest in `files`"


def _head_problems(
    head: Head,
    policy: DecisionPolicy,
    streams: Mapping[str, StreamSpec],
    outputs: Mapping[TensorSource, TensorSpec],
    acts: bool = True,
) -> Iterator[str]:
    yield from head.problems(policy, streams)
    yield from head.ignored(policy, acts)
    spec = outputs.get(head.source)
    if spec is None:
        yield f"head.output {head.output!r} is no stage's output; there are {sorted(map(str, outputs))}"
        return
    expected = head.shape(streams)
    if expected is not None and not fits(spec.shape, expected):
        yield f"head.output has shape {list(spec.shape)}; a {head.kind} head of {head.summary} needs {list(expected)}"
    if spec.dtype not in ("float32", "float16"):
        yield f"head.output is {spec.dtype}; a head reads float32 or float16"


def _stream_problems(streams: Mapping[str, StreamSpec]) -> Iterator[str]:
    for name, spec in streams.items():
        for problem in kind_of(spec).problems(spec):
            yield f"stream {name}: {problem}"


def _twice(names: Iterable[str]) -> str | None:
    """The first of `names` that comes a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _plan_problems(manifest: Manifest) -> Iterator[str]:
    if "default" not in manifest.precision:
        yield "precision has no `default` plan"
    for target, plan in manifest.precision.items():
        for stage in manifest.stages:
            if plan.get(stage.name) not in stage.files:
                yield f"precision.{target}: stage {stage.name} has no {plan.get(stage.name)!r} file"


def _engine_problems(manifest: Manifest) -> Iterator[str]:
    stages = {stage.name: stage for stage in manifest.stages}
    for engine in manifest.engines:
        where = f"engine {engine.file}"
        stage = stages.get(engine.stage)
        graph = stage.files.get(engine.precision) if stage else None
        if graph is None:
            yield f"{where}: there is no {engine.precision!r} graph of a stage {engine.stage!r}"
        elif manifest.files.get(graph) != engine.onnx_sha256:
            yield f"{where}: it was made from another graph than {graph}"
        if engine.file not in manifest.files:
            yield f"{where}: the file has no digest in `files`"


def _input_problems(
    manifest: Manifest, stage: Stage, item: StageInput, outputs: Mapping[TensorSource, TensorSpec]
) -> Iterator[str]:
    """Whether what the sources give, stacked, is what the input takes."""
    where = f"stage {stage.name}, input {item.name}"
    rows = 0
    for source in item.sources:
        if source.kind == "presence":
            offered = TensorSpec("presence", "float32", (1, len(manifest.presence)))
        elif source.kind == "stage":
            if source not in outputs:
                sources = sorted(map(str, outputs))
                yield f"{where}: source '{source}' is no output of an earlier stage; there are {sources}"
                return
            offered = outputs[source]
        elif (tensor := stream_tensor_spec(manifest.streams, source)) is None:
            yield f"{where}: source '{source}' is no stream's field"
            return
        else:
            offered = tensor
        if offered.dtype != item.dtype:
            yield f"{where}: it takes {item.dtype}, {source} is {offered.dtype}"
        if offered.shape[1:] != item.shape[1:]:
            yield f"{where}: shape {list(item.shape)} does not fit {source}, which is {list(offered.shape)}"
        rows += offered.shape[0]
    if rows != item.shape[0]:
        yield f"{where}: shape {list(item.shape)} does not fit its sources, which make {rows} along the first axis"


def stream_tensor_spec(streams: Mapping[str, StreamSpec], source: TensorSource) -> TensorSpec | None:
    """The tensor that a stream gives, or None if there is no such stream or field."""
    spec = streams.get(source.name) if source.kind == "stream" else None
    field = None if spec is None else kind_of(spec).fields(spec).get(source.field)
    return None if field is None else TensorSpec(source.field, field.dtype, field.shape)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: stable key order, indented for people. What only newer runtimes know is left out
    where there is none of it, so that older ones go on reading the rest.
    """
    plain = msgspec.to_builtins(manifest, order="deterministic")
    if not plain["side_heads"]:
        del plain["side_heads"]
    for stream in plain["streams"].values():
        for field, value in _AS_BEFORE.items():
            if stream.get(field) == value:
                del stream[field]
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"
