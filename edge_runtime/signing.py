"""The earlier form of a bundle's signature: SIGNATURE, Ed25519 (RFC 8032) over the manifest's bytes.

Read for one more release, written no more: `model_signature` is the present form.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from edge_runtime.errors import BundleError
from edge_runtime.signing_keys import TrustedKeys


class SignatureFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON in SIGNATURE: Ed25519 over the bytes of manifest.json."""

    algorithm: Literal["ed25519"]
    signature: bytes
    """64 bytes (base64 in JSON)."""


def verify(manifest: bytes, signature_file: bytes, keys: TrustedKeys, where: str) -> str:
    """Name of the first trusted key that signed `manifest`. Raises BundleError if none did."""
    from cryptography.exceptions import InvalidSignature

    try:
        signature = msgspec.json.decode(signature_file, type=SignatureFile)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle {where}: SIGNATURE is damaged: {error}; copy the bundle again") from None
    for trusted, key in keys.ed25519:
        try:
            key.verify(signature.signature, manifest)
        except InvalidSignature:
            continue
        return trusted.name
    raise BundleError(
        f"bundle {where}: its signature fits none of the {len(keys.keys)} trusted keys; "
        "add the builder's public key to trusted_keys, or get the bundle from its builder again"
    )
