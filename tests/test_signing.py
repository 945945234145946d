from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import MANIFEST, SIGNATURE, open_bundle, sign_bundle
from edge_runtime.errors import BundleError, UserError
from edge_runtime.signing import generate_keys
from tests.cli.test_cli import command


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, tiny_bundle_path: Path) -> tuple[Path, Path]:
    """A signed bundle and the public key."""
    folder = tmp_path_factory.mktemp("signed")
    secret, public = generate_keys(folder / "factory")
    bundle = Path(shutil.copytree(tiny_bundle_path, folder / "bundle"))
    sign_bundle(bundle, secret)
    return bundle, public


def test_a_signed_bundle_opens_with_the_key_and_names_it(signed: tuple[Path, Path]) -> None:
    bundle, public = signed
    assert open_bundle(bundle, [public]).signed_by == "factory"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(st.data())
def test_any_flipped_byte_of_any_file_is_found(signed: tuple[Path, Path], data: st.DataObject) -> None:
    bundle, public = signed
    name = data.draw(st.sampled_from([MANIFEST, *sorted(open_bundle(bundle, [public]).manifest.files)]))
    good = (bundle / name).read_bytes()
    where = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[where] ^= data.draw(st.integers(1, 255))
    (bundle / name).write_bytes(bad)
    try:
        with pytest.raises(BundleError):
            open_bundle(bundle, [public])
    finally:
        (bundle / name).write_bytes(good)


def test_a_damaged_signature_is_refused(signed: tuple[Path, Path]) -> None:
    bundle, public = signed
    good = (bundle / SIGNATURE).read_bytes()
    try:
        for bad in (b"", b"{}", good[:-3], good.replace(b"ed25519", b"none")):
            (bundle / SIGNATURE).write_bytes(bad)
            with pytest.raises(BundleError, match="damaged"):
                open_bundle(bundle, [public])
    finally:
        (bundle / SIGNATURE).write_bytes(good)


def test_the_secret_is_its_owner_s_only_and_never_overwritten(tmp_path: Path) -> None:
    secret, public = generate_keys(tmp_path / "k")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_bytes()
    with pytest.raises(UserError, match="exists"):
        generate_keys(tmp_path / "k")
    assert secret.read_bytes() == before
    assert b"PRIVATE" not in public.read_bytes()


def test_from_key_to_verified_bundle_by_command(tmp_path: Path, tiny_bundle_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle_path, tmp_path / "bundle"))
    assert command("bundle", "keygen", tmp_path / "plant").returncode == 0
    assert command("bundle", "sign", bundle, "--key", tmp_path / "plant.key").returncode == 0
    verified = command("bundle", "verify", bundle, "--key", tmp_path / "plant.pem")
    assert verified.returncode == 0, verified.stderr
    assert "signed by plant" in verified.stdout
    wrong = command("bundle", "sign", bundle, "--key", tmp_path / "plant.pem")
    assert (wrong.returncode, "cannot be read as a PEM private key" in wrong.stderr) == (2, True)


def test_a_key_that_others_may_write_or_replace_is_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, key = signed
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    mine = folder / "builder.pem"
    mine.write_bytes(key.read_bytes())
    mine.chmod(0o644)
    assert open_bundle(bundle, [mine]).signed_by == "builder"
    mine.chmod(0o666)
    with pytest.raises(BundleError, match="is not to be trusted: other users may write it; chown root .*chmod go-w"):
        open_bundle(bundle, [mine])
    mine.chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(BundleError, match=r"is not to be trusted: others may write in .*/keys above it; chmod go-w"):
        open_bundle(bundle, [mine])
