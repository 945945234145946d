from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import MANIFEST, open_bundle, sign_bundle
from edge_runtime.errors import BundleError
from edge_runtime.model_signature import MODEL_SIGNATURE
from edge_runtime.signing_keys import generate_keys, load_public_key
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


@pytest.fixture(scope="module")
def packed(signed: tuple[Path, Path]) -> bytes:
    """The signed bundle as a tar."""
    path = signed[0].with_name("packed.tar")
    with tarfile.open(path, "w") as archive:
        archive.add(signed[0], arcname=".")
    return path.read_bytes()


@given(st.data())
def test_of_a_changed_tar_nothing_else_is_ever_opened(
    signed: tuple[Path, Path], packed: bytes, data: st.DataObject
) -> None:
    """Headers are hit as often as content: names, sizes, types, links."""
    bad = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(bad) // 512 - 1)) * 512 + data.draw(st.integers(0, 511))
        piece = data.draw(
            st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from([b"0000000", b"2", b"../x", b"./"]))
        )
        bad[where : where + len(piece)] = piece
    path = signed[0].with_name("changed.tar")
    path.write_bytes(bad)
    try:
        opened = open_bundle(path, [signed[1]])
    except BundleError as error:
        assert "\n" not in str(error)
        return
    whole = open_bundle(signed[0], [signed[1]])
    # White space in the signature's own file is nobody's.
    assert dict(opened.contents()) | {MODEL_SIGNATURE: b""} == dict(whole.contents()) | {MODEL_SIGNATURE: b""}


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
