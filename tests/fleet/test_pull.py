"""`bundle pull` as its user sees it: what is taken and what not, what is fetched, what has to be said."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_runtime.bundle import open_bundle
from edge_runtime.cli import pull as command
from edge_runtime.errors import ConfigError
from edge_runtime.fleet.fetcher import check_url
from edge_runtime.slots import Slots
from tests.fleet.conftest import Fleet, Server

SOMEBODY = 65534


def test_only_what_is_newer_and_for_this_device(fleet: Fleet) -> None:
    assert "nothing newer for this device; tiny 1.0.0 is current" in fleet.pull()[1]
    fleet.publish("2.0.0", machines=["m2"])
    fleet.publish("3.0.0", rollout=0)
    assert "nothing newer" in fleet.pull()[1]
    fleet.publish("2.0.0", machines=["m2"], compute=["8.7"])
    assert "nothing newer" in fleet.pull("--machine", "m2")[1]
    code, said, _ = fleet.pull("--machine", "m2", "--compute", "8.7")
    assert (code, "tiny 2.0.0 is installed" in said, "on trial for 30 s" in said) == (0, True, True)
    assert fleet.told() == [("2.0.0", "pending"), ("1.0.0", "good")]
    fleet.publish("3.0.0", rollout=100)
    fleet.refuses("2.0.0 is on trial here; pull again when that is over")


def test_what_was_bad_is_not_pulled_again(fleet: Fleet) -> None:
    fleet.publish("2.0.0")
    assert fleet.pull()[0] == 0
    fleet.slots.failed(fleet.slots.read().slots[0], "slow")
    assert fleet.told() == [("1.0.0", "good"), ("2.0.0", "bad")]
    assert "nothing newer" in fleet.pull()[1]
    fleet.publish("3.0.0")
    assert fleet.pull()[0] == 0
    assert fleet.told() == [("3.0.0", "pending"), ("1.0.0", "good")]


def test_what_is_on_the_device_is_not_fetched_again(fleet: Fleet) -> None:
    """All that differs between the two is what says the version, and who signs that."""
    fleet.publish("2.0.0")
    fleet.server.asked.clear()
    assert fleet.pull()[0] == 0
    fetched = {asked.rpartition(".")[2] for asked in fleet.server.asked if "/targets/" in asked}
    bundle = open_bundle(fleet.plant / "2.0.0", allow_unsigned=True)
    assert len(fetched) == 2 and bundle.digest in fetched
    assert not fetched & set(bundle.manifest.files.values())


def test_a_file_that_has_rotted_in_its_slot_is_fetched(fleet: Fleet) -> None:
    fleet.publish("2.0.0")
    own = fleet.slots.path(fleet.slots.read().slots[0]) / "tokenizer.model"
    own.write_bytes(own.read_bytes()[:-1] + b"!")
    fleet.server.asked.clear()
    assert fleet.pull()[0] == 0
    digest = open_bundle(fleet.plant / "2.0.0", allow_unsigned=True).manifest.files["tokenizer.model"]
    assert any(asked.endswith(digest) for asked in fleet.server.asked)


def test_trial_options_are_taken_as_by_install(fleet: Fleet) -> None:
    fleet.publish("2.0.0")
    assert fleet.pull("--trial", "7", "--latency-ms", "90", "--shadow", "3")[0] == 0
    state = fleet.slots.read()
    assert (state.trial.seconds, state.trial.latency_ms, state.trial.shadow_s) == (7.0, 90.0, 3.0)
    assert state.shadow is not None and state.shadow.version == "2.0.0"


def test_who_this_device_is_comes_from_the_machine(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "MACHINE_ID", tmp_path / "machine-id")
    fleet.refuses("says nothing; say --device-id", "--device-id", "")
    (tmp_path / "machine-id").write_text("0123456789abcdef\n")
    assert fleet.pull("--device-id", "")[0] == 0


def test_the_root_is_a_file_that_somebody_put_there(fleet: Fleet) -> None:
    """Nothing is trusted because it came first."""
    shutil.rmtree(fleet.slots.folder / ".fleet")
    kept = fleet.root
    fleet.root = fleet.folder / "none.json"
    fleet.refuses("cannot be read (No such file or directory); copy the repository's metadata/1.root.json there")
    fleet.root = kept
    kept.chmod(0o666)
    fleet.refuses("is not to be trusted: other users may write it")
    kept.chmod(0o644)
    good = kept.read_bytes()
    for bad in (b"", b"{}", good.replace(b'"version":1', b'"version":2'), good[:-9]):
        kept.write_bytes(bad)
        fleet.refuses("error: repository")
    kept.write_bytes(good)
    assert fleet.pull()[0] == 0


def test_without_python_tuf_one_line_says_what_to_install(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tuf"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tuf", None)
    for name in ("fetcher", "repository", "pull"):
        monkeypatch.delitem(sys.modules, f"edge_runtime.fleet.{name}", raising=False)
    fleet.refuses("pull needs python-tuf; pip install 'edge-runtime[updates]'")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "http://[::1]/a",
        "http://localhost:80/x",
        "https://updates.example/fleet",
        "https://10.0.0.1:1",
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://updates.example/fleet", "is not encrypted"),
        ("http://192.168.0.1/", "is not encrypted"),
        ("http://127.0.0.1.evil.example/", "is not encrypted"),
        ("https://user:word@updates.example/", "without a user and a query"),
        ("https://updates.example/?a=b", "without a user and a query"),
        ("file:///etc/passwd", "write https://HOST"),
        ("ftp://updates.example/", "write https://HOST"),
        ("updates.example", "write https://HOST"),
        ("https://", "write https://HOST"),
        ("https://host:port/", "is no URL"),
        ("https://[::1/", "is no URL"),
    ],
)
def test_urls_that_are_not(fleet: Fleet, url: str, why: str) -> None:
    fleet.refuses(why, "--repo", url)


def test_plain_http_from_elsewhere_only_by_saying_so() -> None:
    assert check_url("http://updates.example/fleet", plain_http=True)
    with pytest.raises(ConfigError):
        check_url("ftp://updates.example/fleet", plain_http=True)


def test_https_holds_the_server_against_the_authorities(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], Server]
) -> None:
    fleet.publish("2.0.0")
    certificate, key = _certificate(tmp_path)
    server = serve(fleet.publisher.folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = server.url.replace("http://", "https://")
    fleet.refuses("certificate verify failed", "--repo", url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    code, _, wrong = fleet.pull("--repo", url)
    assert code == 0, wrong
    assert fleet.told()[0] == ("2.0.0", "pending")


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "server.pem", folder / "server.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, secret


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user's place")
def test_root_fetches_as_the_user_whom_the_slots_belong_to(fleet: Fleet) -> None:
    """What that user puts there can have root write nowhere else."""
    fleet.publish("2.0.0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        # The server is of this process, so that it is somebody else too meanwhile, and must be able to read.
        fleet.server.folder = Path(shutil.copytree(fleet.publisher.folder, folder / "repo"))
        shutil.copytree(fleet.slots.folder, folder / "slots")
        (folder / "roots").mkdir()
        (folder / "roots" / "2.root.json").write_bytes(b"x")
        fleet.slots = Slots(folder / "slots")
        kept = folder / "slots" / ".fleet"
        shutil.rmtree(kept / "metadata" / "root_history")
        (kept / "metadata" / "root_history").symlink_to(folder / "roots")
        for path in (folder / "slots", *(folder / "slots").rglob("*")):
            os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
        fleet.refuses("cannot be used (Permission denied)")
        assert [path.name for path in (folder / "roots").iterdir()] == ["2.root.json"]
        (kept / "metadata" / "root_history").unlink()
        code, _, wrong = fleet.pull()
        assert code == 0, wrong
        assert fleet.told() == [("2.0.0", "pending"), ("1.0.0", "good")]
        owners = {path.stat().st_uid for path in (folder / "slots").rglob("*")}
        assert owners == {SOMEBODY}
    assert (os.geteuid(), os.getegid()) == (0, 0)
