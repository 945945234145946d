from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import MANIFEST, open_bundle, sign_bundle
from edge_runtime.errors import BundleError
from edge_runtime.keys import generate_keys, load_public_key
from edge_runtime.model_signature import MODEL_SIGNATURE
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
    good = (bundle / MODEL_SIGNATURE).read_bytes()
    try:
        for bad in (b"", b"{}", good[:-3], good.replace(b"in-toto", b"none")):
            (bundle / MODEL_SIGNATURE).write_bytes(bad)
            with pytest.raises(BundleError, match="damaged"):
                open_bundle(bundle, [public])
    finally:
        (bundle / MODEL_SIGNATURE).write_bytes(good)


def test_from_key_to_verified_bundle_by_command(tmp_path: Path, tiny_bundle_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle_path, tmp_path / "bundle"))
    assert command("bundle", "keygen", tmp_path / "plant").returncode == 0
    assert command("bundle", "sign", bundle, "--key", tmp_path / "plant.key").returncode == 0
    verified = command("bundle", "verify", bundle, "--key", tmp_path / "plant.pem")
    assert verified.returncode == 0, verified.stderr
    assert "signed by plant" in verified.stdout
    inspected = command("bundle", "inspect", bundle, "--key", tmp_path / "plant.pem")
    assert inspected.returncode == 0 and "signed by plant" in inspected.stdout
    told = command("bundle", "keyid", tmp_path / "plant.pem")
    assert told.stdout == f"{load_public_key(tmp_path / 'plant.pem').id} plant\n"
    wrong = command("bundle", "sign", bundle, "--key", tmp_path / "plant.pem")
    assert (wrong.returncode, "cannot be read as a PEM private key" in wrong.stderr) == (2, True)
