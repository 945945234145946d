"""`model.sig` as the OpenSSF model-signing specification has it, held against the specification's own implementation
(`pip install -e '.[reference]'`) and test vectors (MODEL_SIGNING_SPEC: a checkout of ossf/model-signing-spec).
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle import MANIFEST, SIGNATURE, open_bundle, sign_bundle
from edge_runtime.errors import BundleError
from edge_runtime.model_signature import MODEL_SIGNATURE, PAYLOAD_TYPE, sign_files, verify_signature
from edge_runtime.signing_keys import generate_keys, load_private_key, load_public_key, load_trusted_keys

SPEC = os.environ.get("MODEL_SIGNING_SPEC", "")
DIGESTS = {"a.txt": "11" * 32, "a/b": "22" * 32, "a-b/c": "33" * 32, "é": "44" * 32}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return generate_keys(tmp_path_factory.mktemp("keys") / "plant")


@pytest.fixture(scope="module")
def good(pair: tuple[Path, Path]) -> bytes:
    return sign_files("model", DIGESTS, pair[0], [MODEL_SIGNATURE], {"version": "1.0.0"})


@pytest.fixture
def bundle(pair: tuple[Path, Path], tmp_path: Path, tiny_bundle_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_bundle_path, tmp_path / "bundle"))
    sign_bundle(folder, pair[0])
    return folder


def check(signature: bytes, pair: tuple[Path, Path]) -> tuple[str, dict[str, str]]:
    name, statement = verify_signature(signature, load_trusted_keys([pair[1]]), "b")
    return name, statement.digests


def changed(good: bytes, change: Callable[[Any], object]) -> bytes:
    """The whole file with something done to its JSON."""
    whole = json.loads(good)
    change(whole)
    return json.dumps(whole).encode()


def signed(good: bytes, secret: Path, change: Callable[[Any], object]) -> bytes:
    """With something done to the statement, and signed again by the key."""
    whole = json.loads(good)
    statement = json.loads(base64.b64decode(whole["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    signature = load_private_key(secret).sign(encoded, ec.ECDSA(hashes.SHA256()))
    whole["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    whole["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return json.dumps(whole).encode()


def test_what_was_signed_comes_back(good: bytes, pair: tuple[Path, Path]) -> None:
    assert check(good, pair) == ("plant", DIGESTS)


def test_the_form_is_the_specification_s(good: bytes, pair: tuple[Path, Path]) -> None:
    whole = json.loads(good)
    assert whole["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert whole["verificationMaterial"] == {"publicKey": {"hint": load_public_key(pair[1]).id}}
    assert whole["dsseEnvelope"]["payloadType"] == PAYLOAD_TYPE == "application/vnd.in-toto+json"
    statement = json.loads(base64.b64decode(whole["dsseEnvelope"]["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert statement["subject"][0]["annotations"] == {"version": "1.0.0"}
    predicate = statement["predicate"]
    assert [resource["name"] for resource in predicate["resources"]] == sorted(DIGESTS)
    assert predicate["serialization"] == {
        "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": ["model.sig"],
    }  # fmt: skip


def test_keys_without_a_fingerprint_and_key_ids_that_are_null_are_taken(good: bytes, pair: tuple[Path, Path]) -> None:
    older = changed(good, lambda whole: whole["verificationMaterial"].update(publicKey={"rawBytes": "MA=="}))
    assert check(older, pair)[0] == "plant"
    for keyid in (None, ""):
        other = changed(good, lambda whole: whole["dsseEnvelope"]["signatures"][0].update(keyid=keyid))  # noqa: B023
        assert check(other, pair)[0] == "plant"
    logged = changed(good, lambda whole: whole["verificationMaterial"].update(tlogEntries=[]))
    assert check(logged, pair)[0] == "plant"


OUTER: dict[str, Callable[[Any], object]] = {
    "no envelope": lambda whole: whole.pop("dsseEnvelope"),
    "no material": lambda whole: whole.pop("verificationMaterial"),
    "no key": lambda whole: whole["verificationMaterial"].clear(),
    "a certificate": lambda whole: whole.update(verificationMaterial={"certificate": {"rawBytes": "MA=="}}),
    "another key": lambda whole: whole["verificationMaterial"]["publicKey"].update(hint="0" * 64),
    "another media type": lambda whole: whole.update(mediaType="application/json"),
    "another payload type": lambda whole: whole["dsseEnvelope"].update(payloadType="text/plain"),
    "no signature": lambda whole: whole["dsseEnvelope"].update(signatures=[]),
    "two signatures": lambda whole: whole["dsseEnvelope"]["signatures"].append({"sig": "MA=="}),
    "an empty signature": lambda whole: whole["dsseEnvelope"]["signatures"][0].update(sig=""),
    "another payload": lambda whole: whole["dsseEnvelope"].update(payload="e30="),
    "no base64": lambda whole: whole["dsseEnvelope"].update(payload="*"),
    "something unknown in the envelope": lambda whole: whole["dsseEnvelope"].update(x=1),
    "something unknown beside the signature": lambda whole: whole["dsseEnvelope"]["signatures"][0].update(x=1),
    "a message signature": lambda whole: whole.update(messageSignature={}),
}
INNER: dict[str, Callable[[Any], object]] = {
    "another statement": lambda one: one.update(_type="https://in-toto.io/Statement/v0.1"),
    "another predicate": lambda one: one.update(predicateType="https://example.com/wrong-predicate/v1.0"),
    "the predicate of version 0.2": lambda one: one.update(predicateType="https://model_signing/Digests/v0.1"),
    "no predicate": lambda one: one.pop("predicate"),
    "no files": lambda one: one["predicate"].update(resources=[]),
    "a file twice": lambda one: one["predicate"]["resources"].append(one["predicate"]["resources"][0]),
    "a digest that is none": lambda one: one["predicate"]["resources"][0].update(digest="zz"),
    "a short digest": lambda one: one["predicate"]["resources"][0].update(digest="11"),
    "another hash": lambda one: one["predicate"]["resources"][0].update(algorithm="md5"),
    "another root": lambda one: one["subject"][0]["digest"].update(sha256="0" * 64),
    "two subjects": lambda one: one["subject"].append(one["subject"][0]),
    "shards": lambda one: one["predicate"]["serialization"].update(method="shards", shard_size=1),
    "links": lambda one: one["predicate"]["serialization"].update(allow_symlinks=True),
    "something unknown": lambda one: one.update(x=1),
    "something unknown in the predicate": lambda one: one["predicate"].update(x=1),
    "something unknown of how it was hashed": lambda one: one["predicate"]["serialization"].update(x=1),
    "a name without end": lambda one: one["predicate"]["resources"][0].update(name="a" * 4097),
    "a name of none": lambda one: one["predicate"]["resources"][0].update(name=""),
}


@pytest.mark.parametrize("what", OUTER)
def test_what_is_no_such_file_is_refused(what: str, good: bytes, pair: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match="bundle b: "):
        check(changed(good, OUTER[what]), pair)


@pytest.mark.parametrize("what", INNER)
def test_a_statement_of_another_form_is_refused_though_the_key_signed_it(
    what: str, good: bytes, pair: tuple[Path, Path]
) -> None:
    with pytest.raises(BundleError, match="bundle b: model.sig "):
        check(signed(good, pair[0], INNER[what]), pair)


@given(st.data())
def test_no_bytes_break_it(good: bytes, pair: tuple[Path, Path], data: st.DataObject) -> None:
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(bad) - 1))
        size = data.draw(st.integers(0, 40))
        bad[where : where + size] = data.draw(st.binary(max_size=40))
    try:
        assert check(bytes(bad), pair) == ("plant", DIGESTS), "what is not covered may change, what is signed not"
    except BundleError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("bad", [b"", b"[" * 100_000, b'{"verificationMaterial":' * 50_000, b"\xff" * 99, b"null"])
def test_what_is_no_json_is_one_line(bad: bytes, pair: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match="damaged, or of another form"):
        check(bad, pair)


def test_what_was_not_signed_is_refused(bundle: Path, pair: tuple[Path, Path]) -> None:
    for name in ("extra.txt", "stages/extra.onnx", ".hidden", SIGNATURE):
        (bundle / name).write_bytes(b"x")
        with pytest.raises(BundleError, match="is in it and was not signed"):
            open_bundle(bundle, [pair[1]])
        (bundle / name).unlink()
    good = bundle / "stages/vision.fp32.onnx"
    good.rename(bundle.parent / "elsewhere")
    good.symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(BundleError, match="was not signed, as a plain file"):
        open_bundle(bundle, [pair[1]])


def test_a_changed_manifest_is_refused_before_it_is_parsed(bundle: Path, pair: tuple[Path, Path]) -> None:
    (bundle / MANIFEST).write_bytes(b"not even json")
    with pytest.raises(BundleError, match="manifest.json was changed after it was signed"):
        open_bundle(bundle, [pair[1]])


def test_a_signature_is_not_asked_for_the_earlier_form_where_it_fits_no_more(
    bundle: Path, pair: tuple[Path, Path]
) -> None:
    (bundle / MODEL_SIGNATURE).write_bytes(b"{}")
    (bundle / SIGNATURE).write_bytes(b'{"algorithm":"ed25519","signature":""}')
    with pytest.raises(BundleError, match="model.sig is damaged"):
        open_bundle(bundle, [pair[1]])


def test_a_stray_file_is_found_when_signing(bundle: Path, pair: tuple[Path, Path]) -> None:
    (bundle / "notes.txt").write_text("x")
    with pytest.raises(BundleError, match="'notes.txt' is not listed in its manifest; remove it, then sign"):
        sign_bundle(bundle, pair[0])


def test_the_reference_takes_our_signatures_and_we_take_its(bundle: Path, pair: tuple[Path, Path]) -> None:
    reference = pytest.importorskip(
        "model_signing", reason="the reference is not installed: pip install '.[reference]'"
    )
    _, public = pair
    signature = bundle / MODEL_SIGNATURE

    def reference_verifies() -> None:
        reference.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(bundle, signature)

    reference_verifies()
    (bundle / "stages/vision.fp32.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="Hash mismatch"):
        reference_verifies()
    with pytest.raises(BundleError, match="changed or cut short"):
        open_bundle(bundle, [public])
    shutil.rmtree(bundle)


def test_we_take_the_reference_s_signatures(pair: tuple[Path, Path], tmp_path: Path, tiny_bundle_path: Path) -> None:
    reference = pytest.importorskip(
        "model_signing", reason="the reference is not installed: pip install '.[reference]'"
    )
    bundle = Path(shutil.copytree(tiny_bundle_path, tmp_path / "bundle"))
    signature = bundle / MODEL_SIGNATURE
    hashing = reference.hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
    signer = reference.signing.Config().use_elliptic_key_signer(private_key=pair[0]).set_hashing_config(hashing)
    signer.sign(bundle, signature)
    assert open_bundle(bundle, [pair[1]]).signed_by == "plant"
    (bundle / ".gitignore").write_text("the reference leaves this out, and whoever adds it is not noticed")
    with pytest.raises(BundleError, match="'.gitignore' is in it and was not signed"):
        open_bundle(bundle, [pair[1]])


@pytest.mark.skipif(not SPEC, reason="MODEL_SIGNING_SPEC names no checkout of ossf/model-signing-spec")
def test_the_specification_s_vectors(good: bytes, pair: tuple[Path, Path]) -> None:
    """The negative ones are refused, those of other methods too; the positive ones of method `key` are read, and none
    but the key that it names is trusted with it. The statement of the one with a wrong predicate is signed anew by a
    trusted key, so that it is its content that is refused."""
    vectors = sorted(Path(SPEC).glob("test-vectors/v1.0/*/*.json"))
    assert len(vectors) > 5
    taken = []
    for vector in vectors:
        text = vector.read_bytes()
        with pytest.raises(BundleError) as refused:
            check(text, pair)
        if vector.parent.name == "valid" and "names the key e8450dec" in str(refused.value):
            payload = json.loads(base64.b64decode(json.loads(text)["dsseEnvelope"]["payload"]))
            check(signed(good, pair[0], lambda one: (one.clear(), one.update(payload))), pair)  # noqa: B023
            taken.append(vector.name)
        if vector.parent.name == "invalid-payload":
            payload = json.loads(base64.b64decode(json.loads(text)["dsseEnvelope"]["payload"]))
            with pytest.raises(BundleError, match="signs what this runtime does not know"):
                check(signed(good, pair[0], lambda one: (one.clear(), one.update(payload))), pair)  # noqa: B023
    assert taken == ["key.bundle.json"]
