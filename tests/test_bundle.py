from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_runtime.bundle import MANIFEST, SIGNATURE, open_bundle
from edge_runtime.errors import BundleError
from edge_runtime.signing import SignatureFile


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


def test_a_bundle_opens_as_directory_and_as_tar_with_the_same_content(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bundle.tar", "w") as archive:
        archive.add(bundle, arcname=".")
        for file in bundle.rglob("*"):
            if file.is_file():
                archive.add(file, arcname=str(file.relative_to(bundle)))
    one = open_bundle(bundle, allow_unsigned=True)
    other = open_bundle(tmp_path / "bundle.tar", allow_unsigned=True)
    assert one.digest == other.digest
    assert one.read("tokenizer.model") == other.read("tokenizer.model")


def test_an_unsigned_bundle_is_refused_unless_allowed(bundle: Path) -> None:
    with pytest.raises(BundleError, match="not signed; sign it, or set allow_unsigned"):
        open_bundle(bundle)
    assert open_bundle(bundle, allow_unsigned=True).signed_by is None


def test_a_signature_by_a_trusted_key_is_accepted_and_named(bundle: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    sign(bundle, key)
    assert open_bundle(bundle, [public_key(key, tmp_path / "factory.pem")]).signed_by == "factory"


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


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda m: m.update(format=2), "not a manifest this runtime knows"),
    "unknown field": (lambda m: m.update(surprise=1), "unknown field"),
    "trigger": (lambda m: m.update(trigger="nose"), "trigger 'nose' is none of the streams"),
    "safe label": (lambda m: m["decision"].update(safe_label="fly"), "safe_label 'fly'"),
    "need of no stream": (lambda m: m["decision"].update(needs={"high": ["nose"]}), "decision.needs names"),
    "need of no label": (lambda m: m["decision"].update(needs={"fly": ["text"]}), "the label 'fly'"),
    "need of the safe label": (lambda m: m["decision"].update(needs={"stop": ["text"]}), "withholds the safe label"),
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


def test_a_path_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such directory or .tar"):
        open_bundle(tmp_path / "nowhere", allow_unsigned=True)
    (tmp_path / "file").write_bytes(b"hello")
    with pytest.raises(BundleError, match="copy the bundle again"):
        open_bundle(tmp_path / "file", allow_unsigned=True)
