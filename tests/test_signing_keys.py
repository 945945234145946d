"""Keys: made safely, trusted only where no other user could have put them, turned over and revoked."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge_runtime import signing_keys as keys
from edge_runtime.bundle import open_bundle, sign_bundle
from edge_runtime.errors import BundleError, UserError
from edge_runtime.signing_keys import generate_keys, load_private_key, load_public_key, load_trusted_keys, trusted


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory, tiny_bundle_path: Path) -> dict[str, tuple[Path, Path]]:
    """Two builders: each one's public key, and a bundle that it signed."""
    folder = tmp_path_factory.mktemp("plants")
    made = {}
    for name in ("old", "new"):
        secret, public = generate_keys(folder / name)
        bundle = Path(shutil.copytree(tiny_bundle_path, folder / f"{name}-bundle"))
        sign_bundle(bundle, secret)
        made[name] = public, bundle
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "trust.d"
    made.mkdir(mode=0o755)
    return made


def trust(folder: Path, *publics: Path) -> None:
    for public in publics:
        (folder / public.with_suffix(".pub").name).write_bytes(public.read_bytes())


def test_the_secret_is_its_owner_s_only_and_never_overwritten(tmp_path: Path) -> None:
    secret, public = generate_keys(tmp_path / "k")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_bytes()
    with pytest.raises(UserError, match="exists"):
        generate_keys(tmp_path / "k")
    assert secret.read_bytes() == before
    assert b"PRIVATE" not in public.read_bytes()


def test_a_folder_of_keys_turns_over_without_a_gap(plants: dict[str, tuple[Path, Path]], folder: Path) -> None:
    (old, old_bundle), (new, new_bundle) = plants["old"], plants["new"]
    trust(folder, old)
    (folder / "README").write_text("not a key")
    assert open_bundle(old_bundle, [folder]).signed_by == "old"
    with pytest.raises(BundleError, match="fits none of the 1 trusted keys"):
        open_bundle(new_bundle, [folder])
    trust(folder, new)
    assert [open_bundle(bundle, [folder]).signed_by for bundle in (old_bundle, new_bundle)] == ["old", "new"]
    (folder / "revoked").write_text(f"# stolen\n{load_public_key(old).id}  # the old plant\n\n")
    assert open_bundle(new_bundle, [folder]).signed_by == "new"
    with pytest.raises(BundleError, match="that signed it was revoked"):
        open_bundle(old_bundle, [folder])


def test_a_revoked_key_is_not_trusted_by_another_way_either(plants: dict[str, tuple[Path, Path]], folder: Path) -> None:
    old, bundle = plants["old"]
    (folder / "revoked").write_text(load_public_key(old).id.upper())
    with pytest.raises(BundleError, match="revoked"):
        open_bundle(bundle, [old, folder])


@pytest.mark.parametrize("text", ["plant", "00", "\0", "g" * 64, "../old"])
def test_a_list_of_revoked_keys_that_cannot_be_read_stands_for_no_empty_one(
    plants: dict[str, tuple[Path, Path]], folder: Path, text: str
) -> None:
    public, bundle = plants["new"]
    trust(folder, public)
    (folder / "revoked").write_text(text)
    with pytest.raises(BundleError, match=r"revoked keys .*: .* is no key id"):
        open_bundle(bundle, [folder])
    (folder / "revoked").chmod(0o666)
    with pytest.raises(BundleError, match="other users may write it"):
        open_bundle(bundle, [folder])


def test_a_key_that_others_may_write_or_replace_is_refused(plants: dict[str, tuple[Path, Path]], folder: Path) -> None:
    public, bundle = plants["old"]
    mine = folder / "builder.pem"
    mine.write_bytes(public.read_bytes())
    mine.chmod(0o644)
    assert open_bundle(bundle, [mine]).signed_by == "builder"
    mine.chmod(0o666)
    with pytest.raises(BundleError, match="is not to be trusted: other users may write it; chown root .*chmod go-w"):
        open_bundle(bundle, [mine])
    mine.chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(BundleError, match=r"is not to be trusted: others may write in .*/trust.d above it; chmod go-w"):
        open_bundle(bundle, [mine])


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1(), ec.BrainpoolP256R1(), None])
def test_of_other_keys_those_that_the_specification_names_are_taken(
    tmp_path: Path, tiny_bundle_path: Path, curve: ec.EllipticCurve | None
) -> None:
    key = ec.generate_private_key(curve) if curve is not None else generate_private_key(65537, 2048)
    secret, public = tmp_path / "k.key", tmp_path / "k.pem"
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    if isinstance(curve, (ec.SECP384R1, ec.SECP521R1)):
        bundle = Path(shutil.copytree(tiny_bundle_path, tmp_path / "b"))
        sign_bundle(bundle, secret)
        assert open_bundle(bundle, [public]).signed_by == "k"
        return
    with pytest.raises(UserError, match="is no key on P-256, P-384 or P-521"):
        load_private_key(secret)
    with pytest.raises(BundleError, match="is no key on P-256, P-384 or P-521"):
        load_trusted_keys([public])


def test_the_machine_s_own_folder_is_trusted_where_nothing_is_configured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "TRUST_FOLDER", folder)
    assert list(trusted([])) == [folder]
    assert list(trusted([Path("mine.pem")])) == [Path("mine.pem")]
    folder.rmdir()
    assert list(trusted([])) == []
