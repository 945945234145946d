"""Keys that sign bundles and those that a device trusts: files, folders of them, and the list of those revoked.

A key's id is the fingerprint by which the model-signing specification names it: the sha256 (hex) of its public half as
PEM. Keys are ECDSA on P-256 (made here), P-384 or P-521; Ed25519 is read for the earlier form of signatures only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import BundleError, UserError
from edge_runtime.plain_file import read_plain
from edge_runtime.trusted_path import others_may_write, why_replaceable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_KEY_BYTES = 64 << 10
MAX_KEYS = 1000
"""In one folder."""
TRUST_FOLDER = Path("/etc/edge-runtime/trust.d")
"""Trusted where nothing else is configured, if it is there."""
REVOKED = "revoked"
"""The file in a folder of keys that names those no longer trusted: a key id a line, `#` begins a comment."""
SUFFIXES = (".pub", ".pem")
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_KEY_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TrustedKey:
    """A public key whose bundles may run."""

    name: str
    """The file's, without its suffix."""
    id: str
    key: EllipticCurvePublicKey | Ed25519PublicKey


@dataclass(frozen=True)
class TrustedKeys:
    """The keys that a device trusts; none of them is revoked."""

    keys: tuple[TrustedKey, ...]
    revoked: frozenset[str]
    """Ids."""

    @property
    def curves(self) -> list[tuple[TrustedKey, EllipticCurvePublicKey]]:
        """Those that sign in the present form."""
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

        return [(one, one.key) for one in self.keys if isinstance(one.key, EllipticCurvePublicKey)]

    @property
    def ed25519(self) -> list[tuple[TrustedKey, Ed25519PublicKey]]:
        """Those that signed in the earlier form."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return [(one, one.key) for one in self.keys if isinstance(one.key, Ed25519PublicKey)]


def trusted(configured: Sequence[Path]) -> Sequence[Path]:
    """What is configured; where nothing is, the machine's own folder of keys if there is one."""
    return configured or ((TRUST_FOLDER,) if TRUST_FOLDER.is_dir() else ())


def load_trusted_keys(paths: Iterable[Path]) -> TrustedKeys:
    """The keys at `paths`: PEM files, or folders with keys (`*.pub`, `*.pem`) and perhaps a file `revoked`, which
    counts for all of them. Raises BundleError for what cannot be read, is no key, or what others could have put there:
    a list of revoked keys that cannot be read must not stand for none.
    """
    keys: list[TrustedKey] = []
    revoked: set[str] = set()
    for path in paths:
        if not path.is_dir():
            keys.append(load_public_key(path))
            continue
        names = sorted(entry.name for entry in path.iterdir())
        files = [path / name for name in names if name.endswith(SUFFIXES)]
        if len(files) > MAX_KEYS:
            raise BundleError(f"trusted keys {path}: {len(files)} files, at most {MAX_KEYS} are read")
        keys += map(load_public_key, files)
        if REVOKED in names:
            revoked |= _read_revoked(path / REVOKED)
    return TrustedKeys(tuple(one for one in keys if one.id not in revoked), frozenset(revoked))


def load_public_key(path: Path) -> TrustedKey:
    """The public key in a PEM file that no other user could have written or replaced. Raises BundleError."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_trusted(path, "trusted key"))
    except (OSError, ValueError) as error:
        raise BundleError(f"trusted key {path}: cannot be read as a PEM public key ({error})") from None
    if not isinstance(key, Ed25519PublicKey) and (
        not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES
    ):
        raise BundleError(f"trusted key {path}: is no key on P-256, P-384 or P-521; make one with `bundle keygen`")
    return TrustedKey(path.stem, key_id(key), key)


def load_private_key(path: Path) -> EllipticCurvePrivateKey:
    """The key that signs. Raises UserError, which never quotes the file."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_plain(path, MAX_KEY_BYTES), password=None)
    except (OSError, ValueError, TypeError):
        # The cause is left out on purpose: it may quote the file.
        raise UserError(f"signing key {path}: cannot be read as a PEM private key without a password") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise UserError(
            f"signing key {path}: is no key on P-256, P-384 or P-521 (Ed25519 signed the earlier form); "
            "make one with `edge-runtime bundle keygen`"
        )
    return key


def generate_keys(stem: Path) -> tuple[Path, Path]:
    """Write a fresh pair on P-256: `<stem>.key` (secret, readable by its owner only) and `<stem>.pem` (public).

    Raises UserError rather than overwrite a key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    secret, public = stem.with_name(stem.name + ".key"), stem.with_name(stem.name + ".pem")
    files = (
        (secret, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600),
        (public, _pem(key.public_key()), 0o644),
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


def key_id(key: EllipticCurvePublicKey | Ed25519PublicKey) -> str:
    """The sha256 (hex) of the public key as PEM: the `hint` of the model-signing specification."""
    return hashlib.sha256(_pem(key)).hexdigest()


def _pem(key: EllipticCurvePublicKey | Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read_revoked(path: Path) -> set[str]:
    try:
        lines = read_trusted(path, "revoked keys").decode().splitlines()
    except (OSError, ValueError) as error:
        raise BundleError(f"revoked keys {path}: cannot be read ({error})") from None
    ids = {line.split("#")[0].strip().lower() for line in lines} - {""}
    if strange := sorted(one for one in ids if not _KEY_ID.fullmatch(one)):
        raise BundleError(
            f"revoked keys {path}: {strange[0]!r:.80} is no key id (64 hex digits); see `edge-runtime bundle keyid`"
        )
    return ids


def read_trusted(path: Path, what: str, limit: int = MAX_KEY_BYTES) -> bytes:
    """The bytes of a file that no other user could have written or replaced. Raises BundleError and OSError."""
    if (reason := why_replaceable(path)) is not None:
        raise BundleError(f"{what} {path}: is not to be trusted: {reason}")
    if others_may_write(path.stat()):
        mend = f"chown root {path}; chmod go-w {path}"
        raise BundleError(f"{what} {path}: is not to be trusted: other users may write it; {mend}")
    return read_plain(path, limit)
