from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_runtime import bundles
from edge_runtime.bundle import (
    MANIFEST,
    SIGNATURE,
    Bundle,
    encode_manifest,
    open_bundle,
    parse_manifest,
    sign_bundle,
)
from edge_runtime.errors import BundleError
from edge_runtime.model_signature import MODEL_SIGNATURE
from edge_runtime.signing import SignatureFile
from edge_runtime.signing_keys import generate_keys


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle_path, tmp_path / "bundle"))


def sign(bundle: Path, key: Ed25519PrivateKey) -> None:
    signature = SignatureFile("ed25519", key.sign((bundle / MANIFEST).read_bytes()))
    (bundle / SIGNATURE).write_bytes(msgspec.json.encode(signature))


def public_key(key: Ed25519PrivateKey, path: Path) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def change(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    edit(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("packed", ["folder", "files"])
def test_a_bundle_opens_as_directory_and_as_tar_with_the_same_content(
    bundle: Path, tmp_path: Path, packed: str
) -> None:
    with tarfile.open(tmp_path / "bundle.tar", "w") as archive:
        if packed == "folder":  # `tar -cf bundle.tar .`: folders are members too, and every name begins with ./
            archive.add(bundle, arcname=".")
        else:
            for file in sorted(path for path in bundle.rglob("*") if path.is_file()):
                archive.add(file, arcname=str(file.relative_to(bundle)))
    one = open_bundle(bundle, allow_unsigned=True)
    other = open_bundle(tmp_path / "bundle.tar", allow_unsigned=True)
    assert one.digest == other.digest
    assert one.read("tokenizer.model") == other.read("tokenizer.model")


def test_an_unsigned_bundle_is_refused_unless_allowed(bundle: Path) -> None:
    with pytest.raises(BundleError, match="not signed; sign it, or set allow_unsigned"):
        open_bundle(bundle)
    assert open_bundle(bundle, allow_unsigned=True).signed_by is None


def test_a_signature_of_the_earlier_form_is_accepted_and_named_with_a_warning(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = Ed25519PrivateKey.generate()
    sign(bundle, key)
    with caplog.at_level(logging.WARNING):
        assert open_bundle(bundle, [public_key(key, tmp_path / "factory.pem")]).signed_by == "factory"
    assert "signed in the earlier form (SIGNATURE)" in caplog.text


def test_a_signature_by_another_key_is_refused(bundle: Path, tmp_path: Path) -> None:
    sign(bundle, Ed25519PrivateKey.generate())
    trusted = public_key(Ed25519PrivateKey.generate(), tmp_path / "factory.pem")
    with pytest.raises(BundleError, match="fits none of the 1 trusted keys"):
        open_bundle(bundle, [trusted])
    with pytest.raises(BundleError, match="fits none of the 1 trusted keys"):
        open_bundle(bundle, [trusted], allow_unsigned=True)


def test_a_manifest_changed_after_signing_is_refused_before_it_is_parsed(bundle: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    sign(bundle, key)
    (bundle / MANIFEST).write_bytes(b"not even json")
    with pytest.raises(BundleError, match="fits none"):
        open_bundle(bundle, [public_key(key, tmp_path / "factory.pem")])


def test_every_single_file_is_guarded(bundle: Path) -> None:
    for file in sorted(open_bundle(bundle, allow_unsigned=True).manifest.files):
        good = (bundle / file).read_bytes()
        for bad in (good[:-1], good + b"\0", bytes([good[0] ^ 1]) + good[1:], b""):
            (bundle / file).write_bytes(bad)
            with pytest.raises(BundleError, match="changed or cut short"):
                open_bundle(bundle, allow_unsigned=True)
        (bundle / file).unlink()
        with pytest.raises(BundleError, match="cannot read"):
            open_bundle(bundle, allow_unsigned=True)
        (bundle / file).write_bytes(good)
    open_bundle(bundle, allow_unsigned=True)


def test_a_file_name_that_leaves_the_bundle_is_refused(bundle: Path) -> None:
    change(bundle, lambda manifest: manifest["files"].update({"../../etc/passwd": "00"}))
    with pytest.raises(BundleError, match="leaves the bundle"):
        open_bundle(bundle, allow_unsigned=True)


def side(name: str, output: str, **policy: float) -> dict[str, Any]:
    head = {"kind": "softmax", "labels": ["a", "b", "c", "d"], "output": output}
    return {"name": name, "head": head, "decision": {"safe_label": "a", **policy}}


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda m: m.update(format=2), "not a manifest this runtime knows"),
    "unknown field": (lambda m: m.update(surprise=1), "unknown field"),
    "trigger": (lambda m: m.update(trigger="nose"), "trigger 'nose' is none of the streams"),
    "safe label": (lambda m: m["decision"].update(safe_label="fly"), "safe_label 'fly'"),
    "need of no stream": (lambda m: m["decision"].update(needs={"high": ["nose"]}), "decision.needs names"),
    "need of no label": (lambda m: m["decision"].update(needs={"fly": ["text"]}), "the label 'fly'"),
    "need of the safe label": (lambda m: m["decision"].update(needs={"stop": ["text"]}), "withholds the safe label"),
    "set but ignored": (
        lambda m: (m["head"].update(kind="sigmoid"), m["decision"].update(hold=2)),
        "decision.hold is set, which a sigmoid head does not read",
    ),
    "a safe label of a sigmoid head": (
        lambda m: (m["head"].update(kind="sigmoid"), m["decision"].update(safe_label="fly")),
        "safe_label 'fly' is none of .*none, undecided",
    ),
    "a sigmoid label that means no label": (
        lambda m: m["head"].update(kind="sigmoid", labels=["bright", "dark", "stop", "none"]),
        "holds 'none'",
    ),
    "more labels than outputs": (
        lambda m: m["head"].update(labels=["bright", "dark", "stop", "high", "low"]),
        r"head.output has shape \[1, 4\]; .* needs \[1, 5\]",
    ),
    "fewer labels than outputs": (lambda m: m["head"].update(labels=["dark", "stop"]), r"needs \[1, 2\]"),
    "output that is no number of a head": (
        lambda m: m["stages"][3]["outputs"][0].update(dtype="int32"),
        "head.output is int32",
    ),
    "tagging without words": (lambda m: m["head"].update(kind="tagging"), "text stream with word_pieces"),
    "unknown kind of head": (lambda m: m["head"].update(kind="oracle"), "not a manifest this runtime knows"),
    "camera's dtype": (
        lambda m: m["stages"][0]["inputs"][0].update(dtype="float32"),
        "input image: it takes float32, stream:camera:image is uint8",
    ),
    "ids' dtype": (lambda m: m["stages"][1]["inputs"][0].update(dtype="int64"), "it takes int64, stream:text:ids"),
    "presence's dtype": (lambda m: m["stages"][3]["inputs"][3].update(dtype="bool"), "presence is float32"),
    "a stage's dtype": (
        lambda m: m["stages"][0]["outputs"][0].update(dtype="float16"),
        "takes float32, stage:vision:features is float16",
    ),
    "a stage's shape": (
        lambda m: m["stages"][0]["outputs"][0].update(shape=[1, 3]),
        r"shape \[1, 2\] does not fit stage:vision:features",
    ),
    "rows of several sources": (
        lambda m: m["stages"][0]["inputs"][0].update(source=["stream:camera:image", "stream:camera:image"]),
        "which make 2 along the first axis",
    ),
    "two stages of one name": (lambda m: m["stages"][1].update(name="vision"), "two called 'vision'"),
    "two inputs of one name": (lambda m: m["stages"][1]["inputs"][1].update(name="ids"), "two inputs called 'ids'"),
    "two outputs of one name": (
        lambda m: m["stages"][0]["outputs"].append(m["stages"][0]["outputs"][0]),
        "two outputs called 'features'",
    ),
    "no output": (lambda m: m["stages"][2].update(outputs=[]), "stage sensors: it has no output"),
    "no input": (lambda m: m["stages"][2].update(inputs=[]), "stage sensors: it has no input"),
    "division by zero": (lambda m: m["streams"]["sensors"]["channels"][0].update(std=0.0), "Expected `float` >= 1e-12"),
    "temperature zero": (lambda m: m["decision"].update(temperature=0.0), "Expected `float` >= 1e-12"),
    "empty range": (
        lambda m: m["streams"]["sensors"]["channels"][0].update(minimum=5.0, maximum=5.0),
        "a: minimum 5 is not below maximum 5",
    ),
    "two channels of one name": (
        lambda m: m["streams"]["sensors"]["channels"][0].update(name="b"),
        "two channels called 'b'",
    ),
    "side head without output": (
        lambda m: m.update(side_heads=[side("nothing", "stage:fusion:none")]),
        "side head nothing: head.output 'stage:fusion:none' is no stage's output",
    ),
    "side heads of one name": (
        lambda m: m.update(side_heads=[side("one", "stage:fusion:logits")] * 2),
        "side_heads: there are two called 'one'",
    ),
    "heartbeat of a side head": (
        lambda m: m.update(side_heads=[side("one", "stage:fusion:logits", heartbeat_ms=100.0)]),
        "decision.heartbeat_ms is set, which a softmax head beside the first does not read",
    ),
    "labels twice": (lambda m: m["head"].update(labels=["a", "a"]), "distinct"),
    "head": (lambda m: m["head"].update(output="stage:none:x"), "no stage's output"),
    "presence": (lambda m: m.update(presence=["nose"]), "presence names"),
    "no default plan": (lambda m: m.update(precision={}), "no `default` plan"),
    "plan": (lambda m: m["precision"]["default"].update(vision="int3"), "has no 'int3' file"),
    "shape": (lambda m: m["stages"][0]["inputs"][0].update(shape=[1, 5, 5, 3]), "does not fit"),
    "order": (lambda m: m["stages"].insert(0, m["stages"].pop()), "no output of an earlier stage"),
    "source": (lambda m: m["stages"][0]["inputs"][0].update(source="stream:nose:image"), "no stream's field"),
    "no source": (lambda m: m["stages"][0]["inputs"][0].update(source="camera"), "source 'camera' is none; expected"),
    "head of no source": (lambda m: m["head"].update(output="logits"), "source 'logits' is none; expected"),
    "tokenizer": (lambda m: m["files"].pop("tokenizer.model"), "needs tokenizer.model"),
    "digest": (lambda m: m["files"].pop("stages/text.fp32.onnx"), "has no digest"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused_in_one_line(bundle: Path, what: str) -> None:
    edit, message = CONTRADICTIONS[what]
    change(bundle, edit)
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(bundle, allow_unsigned=True)
    assert "\n" not in str(caught.value)


def test_a_manifest_with_nothing_new_in_it_is_written_as_older_runtimes_read_it(bundle: Path) -> None:
    opened = open_bundle(bundle, allow_unsigned=True)
    assert b"side_heads" not in encode_manifest(opened.manifest)
    written = (bundles.bundle_path("shipped:home") / MANIFEST).read_bytes()
    old = written.replace(b',\n      "scaling": "reduced"', b"")
    assert b"scaling" not in old and b'"fit"' not in old
    assert encode_manifest(parse_manifest(old, "home")) == old
    assert encode_manifest(parse_manifest(written, "home")) == written


def test_a_path_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such directory or .tar"):
        open_bundle(tmp_path / "nowhere", allow_unsigned=True)
    (tmp_path / "file").write_bytes(b"hello")
    with pytest.raises(BundleError, match="copy the bundle again"):
        open_bundle(tmp_path / "file", allow_unsigned=True)


def opened(bundle: Path) -> Bundle:
    return open_bundle(bundle, allow_unsigned=True)


def refused(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> str:
    change(bundle, edit)
    with pytest.raises(BundleError) as caught:
        opened(bundle)
    return str(caught.value)


def test_a_plan_is_the_back_end_s_own_or_the_default_one(bundle: Path) -> None:
    manifest = opened(bundle).manifest
    other = msgspec.structs.replace(manifest, precision={"default": {"a": "fp32"}, "tensorrt": {"a": "int8"}})
    bundle_of = Bundle(bundle, other, "digest", None)
    assert bundle_of.plan("tensorrt") == {"a": "int8"}
    assert bundle_of.plan("onnxruntime") == {"a": "fp32"}


def test_a_stage_names_what_it_reads_each_once_and_a_bundle_the_streams_that_are_read(bundle: Path) -> None:
    manifest = opened(bundle).manifest
    vision, text, _, fusion = manifest.stages
    assert (vision.streams, vision.stages) == (("camera",), ())
    assert (text.streams, [str(source) for source in text.sources]) == (
        ("text",),
        ["stream:text:ids", "stream:text:mask"],
    )
    assert (fusion.streams, fusion.stages) == ((), ("vision", "text", "sensors"))
    assert manifest.streams_read == ("camera", "sensors", "text")
    alone = msgspec.structs.replace(manifest, stages=(text, vision))
    assert alone.streams_read == ("camera", "text"), "in the manifest's order"


def test_what_nobody_writes_into_a_manifest_is_empty(bundle: Path) -> None:
    names = ("description", "licence", "attribution", "training", "engines", "figures", "side_heads")
    change(bundle, lambda m: [m.pop(name, None) for name in names])
    manifest = opened(bundle).manifest
    assert [getattr(manifest, name) for name in names] == ["", "", (), {}, (), {}, ()]


def test_no_part_of_a_manifest_has_fields_that_this_runtime_does_not_know(bundle: Path) -> None:
    for edit in (
        lambda m: m["stages"][0].update(surprise=1),
        lambda m: m["stages"][0]["inputs"][0].update(surprise=1),
        lambda m: m["stages"][0]["outputs"][0].update(surprise=1),
        lambda m: m["decision"].update(surprise=1),
        lambda m: m["head"].update(surprise=1),
        lambda m: m["streams"]["text"].update(surprise=1),
        lambda m: m["streams"]["sensors"]["channels"][0].update(surprise=1),
        lambda m: m.update(side_heads=[side("one", "stage:fusion:logits") | {"surprise": 1}]),
        lambda m: m.update(engines=[engine(surprise=1)]),
    ):
        before = (bundle / MANIFEST).read_bytes()
        assert "unknown field `surprise`" in refused(bundle, edit)
        (bundle / MANIFEST).write_bytes(before)


def engine(**changes: object) -> dict[str, object]:
    made: dict[str, object] = {
        "stage": "vision",
        "precision": "fp32",
        "flavour": "tensorrt",
        "version": "10.3.0.30",
        "compute": ["8.7"],
        "onnx_sha256": "",
        "file": "engines/vision.engine",
    }
    return made | changes


def with_engine(bundle: Path, **changes: object) -> Callable[[dict[str, Any]], object]:
    graph = opened(bundle).manifest.files["stages/vision.fp32.onnx"]
    return lambda m: m.update(engines=[engine(**{"onnx_sha256": graph, "file": "stages/vision.fp32.onnx", **changes})])


def test_an_engine_belongs_to_a_stage_s_graph_and_has_a_digest(bundle: Path) -> None:
    good = (bundle / MANIFEST).read_bytes()
    change(bundle, with_engine(bundle))
    assert [one.compute for one in opened(bundle).manifest.engines] == [("8.7",)]
    for changes, expected in (
        ({"stage": "nose"}, "there is no 'fp32' graph of a stage 'nose'"),
        ({"precision": "int8"}, "there is no 'int8' graph of a stage 'vision'"),
        ({"onnx_sha256": "0" * 64}, "it was made from another graph than stages/vision.fp32.onnx"),
        ({"file": "engines/none"}, "engine engines/none: the file has no digest in `files`"),
        ({"flavour": "other"}, "not a manifest this runtime knows"),
        ({"compute": ["eight"]}, "not a manifest this runtime knows"),
    ):
        (bundle / MANIFEST).write_bytes(good)
        assert expected in refused(bundle, with_engine(bundle, **changes))


def test_an_input_s_rows_are_its_sources_together_and_the_rest_of_its_shape_theirs(bundle: Path) -> None:
    good = (bundle / MANIFEST).read_bytes()
    for edit, expected in (
        (lambda m: m["stages"][0]["inputs"][0].update(shape=[2, 24, 32, 3]), "which make 1 along the first axis"),
        (lambda m: m["stages"][3]["inputs"][3].update(shape=[1, 4]), "does not fit presence, which is [1, 3]"),
        (lambda m: m["stages"][3]["inputs"][0].update(source="stage:vision:nothing"), "no output of an earlier stage"),
        (lambda m: m["stages"][0]["inputs"][0].update(source="stream:camera:sound"), "is no stream's field"),
        (lambda m: m["stages"][0]["inputs"][0].update(shape=[0, 24, 32, 3]), "Expected `int` >= 1"),
        (lambda m: m["stages"][0]["files"].update(int8="stages/vision.int8.onnx"), "has no digest in `files`"),
        (lambda m: m["precision"].update(tensorrt={}), "precision.tensorrt: stage vision has no None file"),
        (lambda m: m["stages"][3]["outputs"][0].update(dtype="int64"), "head.output is int64"),
    ):
        (bundle / MANIFEST).write_bytes(good)
        assert expected in refused(bundle, edit)
        (bundle / MANIFEST).write_bytes(good)
    half = {"dtype": "float16"}
    change(bundle, lambda m: m["stages"][3]["outputs"][0].update(half))
    assert opened(bundle).manifest.stages[3].outputs[0].dtype == "float16", "a head reads halves too"


def test_names_that_leave_the_bundle_are_refused_before_anything_is_read(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    sha256 = hashlib.sha256(b"secret").hexdigest()
    for name in (str(tmp_path / "secret"), "../secret", "stages/../../secret"):
        before = (bundle / MANIFEST).read_bytes()
        assert "leaves the bundle" in refused(bundle, lambda m, name=name: m["files"].update({name: sha256}))
        (bundle / MANIFEST).write_bytes(before)
    with pytest.raises(BundleError, match="'stages/none' is not listed in its manifest"):
        opened(bundle).read("stages/none")


def test_a_manifest_and_a_signature_have_their_greatest_length(bundle: Path, tmp_path: Path) -> None:
    manifest = (bundle / MANIFEST).read_bytes()
    (bundle / MANIFEST).write_bytes(manifest + b" " * (1024 * 1024 - len(manifest)))
    opened(bundle)
    (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes() + b" ")
    with pytest.raises(BundleError, match="more than 1048576 bytes"):
        opened(bundle)
    (bundle / MANIFEST).write_bytes(manifest)
    key = Ed25519PrivateKey.generate()
    trusted = public_key(key, tmp_path / "factory.pem")
    sign(bundle, key)
    signature = (bundle / SIGNATURE).read_bytes()
    (bundle / SIGNATURE).write_bytes(signature + b" " * (4096 - len(signature)))
    assert open_bundle(bundle, [trusted]).signed_by == "factory"
    (bundle / SIGNATURE).write_bytes((bundle / SIGNATURE).read_bytes() + b" ")
    with pytest.raises(BundleError, match="SIGNATURE .more than 4096 bytes"):
        open_bundle(bundle, [trusted])
    (bundle / MODEL_SIGNATURE).write_bytes(b" " * ((4 << 20) + 1))
    with pytest.raises(BundleError, match="model.sig .more than 4194304 bytes"):
        open_bundle(bundle, [trusted])


def test_a_signature_counts_where_there_are_keys_and_is_needed_where_nothing_else_is_allowed(
    bundle: Path, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    trusted = public_key(key, tmp_path / "factory.pem")
    assert open_bundle(bundle, [trusted], allow_unsigned=True).signed_by is None
    sign(bundle, key)
    assert open_bundle(bundle, [trusted], allow_unsigned=True).signed_by == "factory"
    assert open_bundle(bundle, allow_unsigned=True).signed_by is None, "signed by whoever, trusted as unsigned"
    with pytest.raises(BundleError):
        open_bundle(bundle)


def test_only_a_directory_is_signed_and_every_file_is_checked_before(bundle: Path, tmp_path: Path) -> None:
    private, trusted = generate_keys(tmp_path / "factory")
    with pytest.raises(BundleError, match="only a bundle directory can be signed"):
        sign_bundle(private, private)
    file = bundle / "stages" / "text.fp32.onnx"
    good = file.read_bytes()
    file.write_bytes(good[:-1])
    with pytest.raises(BundleError, match="changed or cut short"):
        sign_bundle(bundle, private)
    assert not (bundle / MODEL_SIGNATURE).exists()
    file.write_bytes(good)
    assert sign_bundle(bundle, private).digest == open_bundle(bundle, [trusted]).digest
    assert open_bundle(bundle, [trusted]).digest == hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
