"""Ed25519 signatures over a bundle's manifest, which holds the digest of every other file (RFC 8032)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from edge_runtime.errors import BundleError, UserError
from edge_runtime.plain_file import read_plain
from edge_runtime.trusted_path import others_may_write, why_replaceable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY_BYTES = 64 << 10


class SignatureFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON in SIGNATURE: Ed25519 over the bytes of manifest.json."""

    algorithm: Literal["ed25519"]
    signature: bytes
    """64 bytes (base64 in JSON)."""


def verify(manifest: bytes, signature_file: bytes, trusted_keys: Sequence[Path], where: str) -> str:
    """Name (file stem) of the first key of `trusted_keys` that signed `manifest`. Raises BundleError if none did."""
    from cryptography.exceptions import InvalidSignature

    try:
        signature = msgspec.json.decode(signature_file, type=SignatureFile)
    except msgspec.DecodeError as error:
        raise BundleError(f"bundle {where}: SIGNATURE is damaged: {error}; copy the bundle again") from None
    for key_file in trusted_keys:
        try:
            load_public_key(key_file).verify(signature.signature, manifest)
        except InvalidSignature:
            continue
        return key_file.stem
    raise BundleError(
        f"bundle {where}: its signature fits none of the {len(trusted_keys)} trusted keys; "
        "add the builder's public key to trusted_keys, or get the bundle from its builder again"
    )


def sign(manifest: bytes, private_key: Path) -> bytes:
    """The bytes of SIGNATURE. Raises UserError if the key cannot be read."""
    signature = SignatureFile("ed25519", _load_private_key(private_key).sign(manifest))
    return msgspec.json.encode(signature) + b"\n"


def generate_keys(stem: Path) -> tuple[Path, Path]:
    """Write a fresh pair: `<stem>.key` (secret, readable by its owner only) and `<stem>.pem` (public).

    Raises UserError rather than overwrite a key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    secret, public = stem.with_name(stem.name + ".key"), stem.with_name(stem.name + ".pem")
    files = (
        (secret, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600),
        (public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644),
    )
    for path, _, _ in files:
        if path.exists():
            raise UserError(f"{path} exists; choose another name: a lost key cannot be had back")
    try:
        for path, data, mode in files:
            # Created with its final mode: a secret is never readable by others, not even for a moment.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except OSError as error:
        raise UserError(f"{stem}: keys cannot be written ({error.strerror}); check the folder") from None
    return secret, public


def load_public_key(path: Path) -> Ed25519PublicKey:
    """The Ed25519 public key in a PEM file that no other user could have written or replaced. Raises BundleError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if (reason := why_replaceable(path)) is not None:
            raise BundleError(f"trusted key {path}: is not to be trusted: {reason}")
        if others_may_write(path.stat()):
            mend = f"chown root {path}; chmod go-w {path}"
            raise BundleError(f"trusted key {path}: is not to be trusted: other users may write it; {mend}")
        key = load_pem_public_key(read_plain(path, MAX_KEY_BYTES))
    except (OSError, ValueError) as error:
        raise BundleError(f"trusted key {path}: cannot be read as a PEM public key ({error})") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"trusted key {path}: is not an Ed25519 key")
    return key


def _load_private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_plain(path, MAX_KEY_BYTES), password=None)
    except (OSError, ValueError, TypeError):
        # The cause is left out on purpose: it may quote the file.
        raise UserError(f"signing key {path}: cannot be read as a PEM private key without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"signing key {path}: is not an Ed25519 key; make one with `edge-runtime bundle keygen`")
    return key
