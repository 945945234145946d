"""Signatures by the OpenSSF model-signing specification 1.0, method `key`: `model.sig`.

A Sigstore bundle (JSON) holds a DSSE envelope, whose payload is an in-toto statement: the sha256 of every file of the
folder. The payload is parsed after its signature is verified. Of what the specification leaves open, this takes whole
files hashed by sha256, no symbolic links, and nothing left out but signatures.
https://github.com/ossf/model-signing-spec/blob/main/spec/v1.0.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from edge_runtime.errors import BundleError
from edge_runtime.signing_keys import TrustedKeys, key_id, load_private_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

MODEL_SIGNATURE = "model.sig"
MAX_SIGNATURE_BYTES = 4 << 20
MAX_FILES = 10_000
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"

Name = Annotated[str, Meta(min_length=1, max_length=4096)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class PublicKey(Struct, frozen=True):
    """Which key signed, by its fingerprint; signers before version 1.1 gave the key itself, which proves nothing."""

    hint: Annotated[str, Meta(max_length=1024)] = ""


class VerificationMaterial(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Only method `key` has `publicKey`; what else there may be is not looked at."""

    public_key: PublicKey | None = None


class EnvelopeSignature(Struct, frozen=True, forbid_unknown_fields=True):
    sig: bytes
    keyid: str | None = None


class Envelope(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """DSSE: https://github.com/secure-systems-lab/dsse/blob/master/envelope.md"""

    payload: bytes
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[tuple[EnvelopeSignature, ...], Meta(min_length=1, max_length=1)]
    """One, as a Sigstore bundle of this version has it."""


class SignatureBundle(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The whole file."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: VerificationMaterial
    dsse_envelope: Envelope


class Resource(Struct, frozen=True):
    """One file."""

    name: Name
    digest: Sha256
    algorithm: Literal["sha256"]


class Serialization(Struct, frozen=True, forbid_unknown_fields=True):
    """How the files were found and hashed."""

    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool
    ignore_paths: Annotated[tuple[Name, ...], Meta(max_length=MAX_FILES)] = ()


class Predicate(Struct, frozen=True, forbid_unknown_fields=True):
    resources: Annotated[tuple[Resource, ...], Meta(min_length=1, max_length=MAX_FILES)]
    serialization: Serialization


class Subject(Struct, frozen=True, omit_defaults=True):
    """What is signed, as a whole: the digest over the digests of its files, in their order."""

    name: Annotated[str, Meta(min_length=1)]
    digest: dict[str, str]
    annotations: dict[str, Any] = {}
    """For people and inventories: version, licence, where it comes from."""


class Statement(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """in-toto: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md"""

    type_: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: Annotated[tuple[Subject, ...], Meta(min_length=1, max_length=1)]
    predicate_type: Literal["https://model_signing/signature/v1.0"]
    predicate: Predicate

    @property
    def digests(self) -> dict[str, str]:
        """Name of every file to its sha256 (hex)."""
        return {resource.name: resource.digest for resource in self.predicate.resources}


def sign_files(
    name: str, digests: Mapping[str, str], private_key: Path, ignored: Sequence[str], annotations: dict[str, Any]
) -> bytes:
    """The bytes of `model.sig` over the files with these sha256 (hex), of the model called `name`; `ignored` are the
    paths that it does not cover. Raises UserError if the key cannot be read.
    """
    key = load_private_key(private_key)
    resources = tuple(Resource(file, digest, "sha256") for file, digest in sorted(digests.items()))
    statement = Statement(
        STATEMENT_TYPE,
        (Subject(name, {"sha256": _root_digest(resources)}, annotations),),
        PREDICATE_TYPE,
        Predicate(resources, Serialization("files", "sha256", False, tuple(sorted(ignored)))),
    )
    payload = msgspec.json.encode(statement)
    signature = key.sign(_pre_authentication_encoding(payload), _algorithm(key.public_key()))
    signed = SignatureBundle(
        MEDIA_TYPE,
        VerificationMaterial(PublicKey(key_id(key.public_key()))),
        Envelope(payload, PAYLOAD_TYPE, (EnvelopeSignature(signature, ""),)),
    )
    return msgspec.json.format(msgspec.json.encode(signed), indent=2) + b"\n"


def verify_signature(signature_file: bytes, keys: TrustedKeys, where: str) -> tuple[str, Statement]:
    """Name of the trusted key that signed, and what it signed. Raises BundleError: damaged, of another form, by a key
    that is revoked or not trusted, or not by the key that it names.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        signed = msgspec.json.decode(signature_file, type=SignatureBundle)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError(
            f"bundle {where}: {MODEL_SIGNATURE} is damaged, or of another form: {error}; copy the bundle again"
        ) from None
    public = signed.verification_material.public_key
    if public is None:
        raise BundleError(f"bundle {where}: it was signed by another method than `key`; sign it with `bundle sign`")
    if public.hint in keys.revoked:
        raise BundleError(
            f"bundle {where}: the key {public.hint:.16} that signed it was revoked; sign it with a new one"
        )
    envelope = signed.dsse_envelope
    encoded = _pre_authentication_encoding(envelope.payload)
    for trusted, key in keys.curves:
        if public.hint not in ("", trusted.id):
            continue
        try:
            key.verify(envelope.signatures[0].sig, encoded, _algorithm(key))
        except InvalidSignature:
            continue
        return trusted.name, _parse_statement(envelope.payload, where)
    raise BundleError(
        f"bundle {where}: its signature fits none of the {len(keys.keys)} trusted keys (it names the key "
        f"{public.hint or 'of no name':.16}); add the builder's public key to trusted_keys, or get the bundle from its "
        "builder again"
    )


def _parse_statement(payload: bytes, where: str) -> Statement:
    """What a verified payload says. Raises BundleError if it is not this form, or contradicts itself."""
    try:
        statement = msgspec.json.decode(payload, type=Statement)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle {where}: {MODEL_SIGNATURE} signs what this runtime does not know: {error}") from None
    resources = statement.predicate.resources
    if statement.predicate.serialization.allow_symlinks:
        raise BundleError(f"bundle {where}: {MODEL_SIGNATURE} follows symbolic links; sign the files themselves")
    if len(statement.digests) != len(resources):
        raise BundleError(f"bundle {where}: {MODEL_SIGNATURE} names a file twice; sign it again")
    if statement.subject[0].digest.get("sha256") != _root_digest(resources):
        raise BundleError(f"bundle {where}: {MODEL_SIGNATURE} contradicts itself: its digests are not its subject's")
    return statement


def _root_digest(resources: Sequence[Resource]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()


def _pre_authentication_encoding(payload: bytes) -> bytes:
    """What is signed: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md"""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    """ECDSA with the hash that belongs to the curve (Sigstore's registry of algorithms)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size])
