"""A repository: made once, offered what may be offered, its keys where they belong, whole whenever it is looked at."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root

from build_engines import publish
from build_engines.publish import LIFE, ROLES, Publisher
from edge_runtime.bundle import Bundle, open_bundle, sign_bundle
from edge_runtime.errors import UserError
from edge_runtime.signing_keys import generate_keys
from tests import tiny
from tests.build_engines.calling import call


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed bundles by name, and the key."""
    folder = tmp_path_factory.mktemp("plant")
    secret, _ = generate_keys(folder / "plant")
    for name, version, scale in (("1", "1.0.0", 1.0), ("2", "2.0.0", 1.0), ("2b", "2.0", 2.0), ("one", "one", 1.0)):
        tiny.write_bundle(folder / name, version=version, scale=scale)
        sign_bundle(folder / name, secret)
    return folder


def bundle(plant: Path, name: str) -> Bundle:
    return open_bundle(plant / name, [plant / "plant.pem"])


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path / "repo", tmp_path / "keys")
    made.create()
    return made


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metadata(publisher: Publisher, name: str) -> Metadata[Any]:
    return Metadata.from_file(str(publisher.folder / "metadata" / name))


def test_the_keys_are_a_secret_of_their_owner(publisher: Publisher, tmp_path: Path) -> None:
    keys = sorted((tmp_path / "keys").iterdir())
    assert [key.name.partition("-")[0] for key in keys] == sorted(ROLES)
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    root = metadata(publisher, "1.root.json").signed
    assert isinstance(root, Root) and root.consistent_snapshot
    assert len({root.roles[role].keyids[0] for role in ROLES}) == 4, "a key for each role"


def test_keys_that_others_may_read_sign_nothing(publisher: Publisher, plant: Path, tmp_path: Path) -> None:
    (key,) = (tmp_path / "keys").glob("targets-*")
    key.chmod(0o640)
    before = tree(publisher.folder / "metadata")
    with pytest.raises(UserError, match="others may read it; chmod 600"):
        publisher.publish(bundle(plant, "1"))
    assert tree(publisher.folder / "metadata") == before


def test_what_needs_which_key(publisher: Publisher, plant: Path, tmp_path: Path) -> None:
    """Root's is for rotation alone, that of targets for publishing; to renew, those that are on line are enough."""
    keys = {key.name.partition("-")[0]: key for key in (tmp_path / "keys").iterdir()}
    safe = {role: keys[role].read_bytes() for role in ("root", "targets")}
    keys["root"].unlink()
    publisher.publish(bundle(plant, "1"))
    keys["targets"].unlink()
    publisher.refresh()
    with pytest.raises(UserError, match=r"is not there; this needs the key of targets"):
        publisher.publish(bundle(plant, "2"))
    with pytest.raises(UserError, match=r"is not there; this needs the key of root"):
        publisher.rotate("timestamp")
    keys["targets"].write_bytes(safe["root"])
    keys["targets"].chmod(0o600)
    with pytest.raises(UserError, match="cannot be read as the key of targets"):
        publisher.publish(bundle(plant, "2"))
    assert [offer.version for offer in publisher.offers().values()] == ["1.0.0"]


def test_a_folder_that_was_mistyped_is_not_made_into_a_repository(
    publisher: Publisher, plant: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="holds keys already, of another perhaps"):
        Publisher(tmp_path / "rpeo", tmp_path / "keys").create()
    assert not (tmp_path / "rpeo").exists()
    with pytest.raises(UserError, match="is there already"):
        publisher.create()
    with pytest.raises(UserError, match=r"is not there; this needs the key of targets"):
        Publisher(publisher.folder, tmp_path / "kyes").publish(bundle(plant, "1"))
    with pytest.raises(UserError, match="its metadata cannot be read"):
        Publisher(tmp_path / "none", tmp_path / "keys").refresh()


def test_the_same_bundle_again_changes_who_may_have_it(publisher: Publisher, plant: Path) -> None:
    publisher.publish(bundle(plant, "1"), machines=["aarch64"], compute=["8.7"], rollout=10)
    publisher.publish(bundle(plant, "1"), rollout=50)
    (offer,) = publisher.offers().values()
    assert (offer.version, offer.machines, offer.compute, offer.rollout) == ("1.0.0", (), (), 50)
    assert set(offer.files) == {*bundle(plant, "1").manifest.files, "model.sig"}


def test_no_device_ever_has_to_choose_between_two_of_one_version(publisher: Publisher, plant: Path) -> None:
    publisher.publish(bundle(plant, "2"), machines=["aarch64", "x86_64"])
    for machines, compute in (((), ()), (("x86_64",), ()), (("x86_64",), ("8.7",))):
        with pytest.raises(UserError, match=r"another tiny 2.0.0 is offered for the same devices; raise the version"):
            publisher.publish(bundle(plant, "2b"), machines, compute)
    publisher.publish(bundle(plant, "2b"), ["riscv64"])
    assert len(publisher.offers()) == 2
    with pytest.raises(UserError, match="'one' cannot be told to be newer"):
        publisher.publish(bundle(plant, "one"))


def test_files_that_bundles_share_are_there_once_and_none_that_is_named_is_missing(
    publisher: Publisher, plant: Path
) -> None:
    publisher.publish(bundle(plant, "1"))
    publisher.publish(bundle(plant, "2"))
    targets = metadata(publisher, "3.targets.json").signed.targets
    there = {path.relative_to(publisher.folder / "targets") for path in (publisher.folder / "targets").rglob("*.*")}
    names = {Path(path).parent / f"{Path(path).name}.{Path(path).name}" for path in targets}
    assert names == there
    assert len(targets) == len(bundle(plant, "1").manifest.files) + 4, "two manifests and two signatures"


def test_a_signature_that_is_no_longer_the_bundles_is_no_longer_offered(
    publisher: Publisher, plant: Path, tmp_path: Path
) -> None:
    again = tiny.write_bundle(tmp_path / "again", version="1.0.0")
    for name in ("first", "second"):
        secret, public = generate_keys(tmp_path / name)
        sign_bundle(again, secret)
        publisher.publish(open_bundle(again, [public]))
    assert len(metadata(publisher, "3.targets.json").signed.targets) == len(bundle(plant, "1").manifest.files) + 2


def test_a_publication_that_is_cut_short_leaves_what_was_offered(
    publisher: Publisher, plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each file that it writes: who comes then finds the old state, and the next publication is whole."""
    publisher.publish(bundle(plant, "1"))
    whole = publish.replace_file
    for after in range(50):
        left = [after]

        def cut(disk: Any, path: Path, data: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            whole(disk, path, data)

        monkeypatch.setattr(publish, "replace_file", cut)
        try:
            publisher.publish(bundle(plant, "2"), rollout=after)
        except KeyboardInterrupt:
            assert [offer.version for offer in publisher.offers().values()] == ["1.0.0"]
        else:
            assert after > 2
            break
    offers = publisher.offers()
    assert sorted(offer.version for offer in offers.values()) == ["1.0.0", "2.0.0"]


def test_renewed_in_time_it_goes_on_and_what_needs_a_hand_is_told(publisher: Publisher, tmp_path: Path) -> None:
    def at(days: float) -> Publisher:
        return Publisher(publisher.folder, tmp_path / "keys", datetime.now(timezone.utc) + timedelta(days=days))

    assert at(0).expiring() == []
    at(5).refresh()
    timestamp = metadata(publisher, "timestamp.json").signed
    assert timestamp.expires - datetime.now(timezone.utc) > timedelta(days=5.9)
    assert LIFE["timestamp"] == timedelta(days=1)
    root, targets = at(340).expiring()
    assert root.startswith("root expires on") and "--rotate root renews it" in root
    assert targets.startswith("targets expires on")
    at(340).rotate("root")
    assert len(at(340).expiring()) == 1


def test_by_command(
    plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--repo", tmp_path / "repo", "--keys", tmp_path / "keys")
    trust = ("--trust", plant / "plant.pem")
    assert call(monkeypatch, "publish", plant / "1", *where) == 2
    assert not (tmp_path / "repo").exists() and not (tmp_path / "keys").exists(), "what is refused makes no repository"
    assert call(monkeypatch, "publish", plant / "1", *where, *trust, "--machine", "aarch64", "--rollout", "10") == 0
    said = capsys.readouterr().out
    assert "tiny 1.0.0 for aarch64, 10 % of the devices" in said and "1.root.json goes to the devices" in said
    assert call(monkeypatch, "publish", "--refresh", *where) == 0
    assert call(monkeypatch, "publish", "--rotate", "root", *where) == 0
    assert (tmp_path / "repo" / "metadata" / "2.root.json").is_file()
    capsys.readouterr()
    for wrong in (("publish", *where), ("publish", plant / "1", "--refresh", *where)):
        assert call(monkeypatch, *wrong) == 2
        assert "say one of BUNDLE, --refresh and --rotate" in capsys.readouterr().err
