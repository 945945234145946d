"""The attacks that the TUF specification names, against a real server: each is refused in one line, and nothing has
changed. https://theupdateframework.github.io/specification/latest/#goals-to-protect-against-specific-attacks
"""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, TargetFile

from build_engines.publish import Publisher
from edge_runtime.bundle import open_bundle
from edge_runtime.fleet import fetcher
from edge_runtime.fleet.offers import BUNDLES, FILES
from tests.conftest import WAIT_S, wait_for
from tests.fleet.conftest import Fleet, put

Handler = http.server.SimpleHTTPRequestHandler


def test_arbitrary_installation_by_who_serves(fleet: Fleet) -> None:
    """Another file in the place of one that is offered: of the same length, even."""
    fleet.publish("2.0.0")
    for file in (fleet.publisher.folder / "targets").rglob("*.*"):
        kept = file.read_bytes()
        file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    fleet.refuses("a file is not the one that was signed")


def test_arbitrary_installation_by_who_has_stolen_every_key_of_the_repository(fleet: Fleet) -> None:
    """Then it is the signature of the bundle that holds."""
    fleet.publisher.publish(open_bundle(fleet.plant / "evil", [fleet.plant / "other.pem"]))
    fleet.refuses("its signature fits none of the 1 trusted keys")


def test_a_bundle_under_another_name_or_version(fleet: Fleet) -> None:
    """An old one, with all that it may have wrong with it, that calls itself new: signed by the plant, after all."""
    fleet.good("2.0.0")

    def lie(targets: Any) -> None:
        old = open_bundle(fleet.plant / "1.0.0", allow_unsigned=True).digest
        targets.targets[BUNDLES + old].custom["version"] = "9.0.0"

    fleet.publish("1.0.0")
    fleet.forge_up(lie, fleet.signer("targets"))
    fleet.refuses("the repository calls tiny 9.0.0 what is tiny 1.0.0")


def test_rollback_to_metadata_of_before(fleet: Fleet) -> None:
    before = fleet.keep()
    fleet.good("2.0.0")
    fleet.server.folder = before
    fleet.refuses("older metadata than was seen before")


@pytest.mark.parametrize("stolen", ["timestamp", "snapshot"])
def test_rollback_by_who_has_stolen_the_keys_that_are_on_line(fleet: Fleet, stolen: str) -> None:
    """They can say that it is now, not that it is then again."""
    old_snapshot, old_targets = fleet.snapshot_version(), fleet.targets_version()
    fleet.good("2.0.0")
    if stolen == "snapshot":

        def older(snapshot: Any) -> None:
            data = (fleet.metadata / f"{old_targets}.targets.json").read_bytes()
            snapshot.meta["targets.json"] = MetaFile.from_data(old_targets, data, ["sha256"])
            snapshot.version += 1

        name = fleet.snapshot_version()
        shutil.copy(fleet.metadata / f"{name}.snapshot.json", fleet.metadata / f"{name + 1}.snapshot.json")
        named = fleet.forge(f"{name + 1}.snapshot.json", older, fleet.signer("snapshot"))
    else:
        data = (fleet.metadata / f"{old_snapshot}.snapshot.json").read_bytes()
        named = MetaFile.from_data(old_snapshot, data, ["sha256"])

    def newer(timestamp: Any) -> None:
        timestamp.version += 1
        timestamp.snapshot_meta = named

    fleet.forge("timestamp.json", newer, fleet.signer("timestamp"))
    fleet.refuses("older metadata than was seen before")


def test_freeze(fleet: Fleet) -> None:
    """What was so two days ago is no answer, signed as it may be."""
    then = datetime.now(timezone.utc) - timedelta(days=2)
    stale = Publisher(fleet.publisher.folder, fleet.folder / "keys", now=then)
    stale.publish(open_bundle(fleet.plant / "2.0.0", [fleet.plant / "plant.pem"]))
    fleet.refuses("timestamp.json is expired: it was not renewed, or somebody keeps news back; here it is 20")
    fleet.publisher.refresh()
    assert fleet.pull()[0] == 0, "and renewed with the keys that are on line it is one again"


@pytest.mark.parametrize("role", ["snapshot", "targets", "root"])
def test_freeze_of_any_role(fleet: Fleet, role: str) -> None:
    past = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=1)
    fleet.publish("2.0.0")
    if role == "root":
        shutil.copy(fleet.metadata / "1.root.json", fleet.metadata / "2.root.json")
        fleet.forge("2.root.json", put(version=2, expires=past), fleet.signer("root"))
    elif role == "targets":
        fleet.forge_up(put(expires=past), fleet.signer("targets"))
    else:
        named = fleet.forge(f"{fleet.snapshot_version()}.snapshot.json", put(expires=past), fleet.signer("snapshot"))
        fleet.forge("timestamp.json", put(snapshot_meta=named), fleet.signer("timestamp"))
    fleet.refuses("is expired: it was not renewed")


def test_mix_and_match(fleet: Fleet) -> None:
    """Each file was good once; together they never were."""
    fleet.publish("2.0.0")
    old = (fleet.metadata / f"{fleet.targets_version()}.targets.json").read_bytes()
    fleet.publish("3.0.0")
    (fleet.metadata / f"{fleet.targets_version()}.targets.json").write_bytes(old)
    fleet.refuses("a file is not the one that was signed")


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_wrong_role(fleet: Fleet, role: str) -> None:
    """The keys that are on line cannot say what is offered."""
    fleet.publish("2.0.0")
    fleet.forge_up(lambda targets: None, fleet.signer(role))
    fleet.refuses("metadata that those it is from did not sign")


def test_wrong_key(fleet: Fleet) -> None:
    """Another repository altogether, in order in itself."""
    other = Publisher(fleet.folder / "other", fleet.folder / "other-keys")
    other.create()
    other.publish(open_bundle(fleet.plant / "2.0.0", [fleet.plant / "plant.pem"]))
    fleet.server.folder = other.folder
    fleet.refuses("metadata that those it is from did not sign")


def endless(handler: Handler) -> None:
    """Nothing but zeros, for as long as somebody reads."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        pass


@pytest.mark.parametrize("what", ["timestamp.json", "2.root.json", "manifest", "file"])
def test_endless_data(fleet: Fleet, what: str) -> None:
    fleet.publish("2.0.0")
    bundle = open_bundle(fleet.plant / "2.0.0", allow_unsigned=True)
    fresh = next(name for name in sorted(bundle.manifest.files) if "fusion" in name)
    end = {"manifest": bundle.digest, "file": bundle.manifest.files[fresh]}.get(what, what)
    if what == "file":  # what is in a slot already is not fetched
        shutil.rmtree(fleet.slots.path(fleet.slots.read().slots[0]) / "stages")
    fleet.server.asked.clear()
    fleet.server.answers[end] = endless
    fleet.refuses("a file has no end (it is longer than")
    assert any(asked.endswith(end) for asked in fleet.server.asked)


def test_gigabytes_out_of_a_few_bytes(fleet: Fleet) -> None:
    """What a server packs is not unpacked."""

    def packed(handler: Handler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        import gzip

        handler.wfile.write(gzip.compress((fleet.metadata / "timestamp.json").read_bytes()))

    fleet.server.answers["timestamp.json"] = packed
    fleet.refuses("Failed to deserialize JSON")


def drip(part: bytes, headers: bool) -> Callable[[Fleet], Callable[[Handler], None]]:
    """A byte now and then: of the headers, or of the content."""

    def make(fleet: Fleet) -> Callable[[Handler], None]:
        def answer(handler: Handler) -> None:
            try:
                if headers:
                    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
                else:
                    handler.send_response(200)
                    handler.end_headers()
                while not fleet.server.over.wait(0.05):
                    handler.wfile.write(part)
            except OSError:
                pass

        return answer

    return make


@pytest.mark.parametrize(
    "how",
    [drip(b"x", headers=True), drip(b"x", headers=False), drip(b"", headers=False)],
    ids=["headers", "body", "none"],
)
@pytest.mark.parametrize("what", ["timestamp.json", "manifest"])
def test_slow_retrieval(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, how: Callable[[Fleet], Callable[[Handler], None]], what: str
) -> None:
    """Who sends a byte now and then holds up nobody for ever, though every wait by itself is short."""
    monkeypatch.setattr(fetcher, "GRACE_S", 1.0)
    fleet.publish("2.0.0")
    end = open_bundle(fleet.plant / "2.0.0", allow_unsigned=True).digest if what == "manifest" else what
    fleet.server.answers[end] = how(fleet)
    fleet.refuses("too slow (")


def test_a_redirect_is_not_followed(fleet: Fleet, serve: Callable[[Path], Any]) -> None:
    elsewhere = serve(fleet.publisher.folder)

    def moved(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{elsewhere.url}/metadata/timestamp.json")
        handler.end_headers()

    fleet.server.answers["timestamp.json"] = moved
    fleet.refuses("the server says 302")
    assert elsewhere.asked == []


RUBBISH = (b"", b"{", b"[]", b"\xff" * 100, b"{}" * 5, b"[" * 5000, b'{"signed": 1, "signatures": []}')


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json"])
def test_rubbish_for_metadata(fleet: Fleet, name: str) -> None:
    for answer in RUBBISH:

        def rubbish(handler: Handler, answer: bytes = answer) -> None:
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(answer)

        fleet.server.answers[name] = rubbish
        fleet.refuses("Failed to deserialize JSON")


@pytest.mark.parametrize("code", [403, 404, 500])
def test_a_server_that_has_it_not(fleet: Fleet, code: int) -> None:
    fleet.server.answers["timestamp.json"] = lambda handler: handler.send_error(code)
    fleet.refuses(f"the server says {code}")


def test_no_server(fleet: Fleet) -> None:
    fleet.server.close()
    fleet.refuses("Connection refused")


def test_a_new_root_that_the_old_one_signed_is_followed(fleet: Fleet) -> None:
    """Every role gets a new key, one after the other, root twice; the device still has the first root alone."""
    for role in ("root", "timestamp", "snapshot", "targets", "root"):
        fleet.publisher.rotate(role)  # type: ignore[arg-type]
    fleet.publish("2.0.0")
    code, said, wrong = fleet.pull()
    assert (code, "tiny 2.0.0 is installed" in said) == (0, True), wrong
    assert sorted(int(path.name.split(".")[0]) for path in fleet.metadata.glob("*.root.json")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "how", ["a stranger's", "by the new key alone", "a version left out", "the old key for a role"]
)
def test_a_new_root_that_is_not_in_order_is_refused(fleet: Fleet, how: str) -> None:
    fleet.publish("2.0.0")
    if how == "the old key for a role":
        # Whoever has stolen the key of before the rotation: it counts no more.
        stolen = fleet.signer("timestamp")
        fleet.publisher.rotate("timestamp")
        fleet.forge("timestamp.json", put(version=99), stolen)
        return fleet.refuses("metadata that those it is from did not sign")
    stranger = CryptoSigner.generate_ed25519()

    def other_keys(root: Any) -> None:
        root.version = 3 if how == "a version left out" else 2
        for role in list(root.roles):
            for old in list(root.roles[role].keyids):
                root.revoke_key(old, role)
            root.add_key(stranger.public_key, role)

    shutil.copy(fleet.metadata / "1.root.json", fleet.metadata / "2.root.json")
    signers = {
        "a stranger's": [stranger],
        "by the new key alone": [stranger],
        "a version left out": [stranger, fleet.signer("root")],
    }
    fleet.forge("2.root.json", other_keys, *signers[how])
    return fleet.refuses("older metadata" if how == "a version left out" else "did not sign")


def test_versions_put_as_high_as_they_go_are_forgotten_with_the_key(fleet: Fleet) -> None:
    """Fast forward: who has the keys that are on line makes all that comes after look old, until they are rotated."""
    kept = fleet.keep()
    fleet.publish("2.0.0", rollout=0)
    name = f"{fleet.snapshot_version()}.snapshot.json"
    high = fleet.forge(name, put(version=1 << 30), fleet.signer("snapshot"))
    (fleet.metadata / f"{1 << 30}.snapshot.json").write_bytes((fleet.metadata / name).read_bytes())

    fleet.forge("timestamp.json", put(version=1 << 30, snapshot_meta=high), fleet.signer("timestamp"))
    assert "nothing newer" in fleet.pull()[1]
    shutil.rmtree(fleet.publisher.folder)
    shutil.copytree(kept, fleet.publisher.folder)
    fleet.publish("2.0.0")
    fleet.refuses("older metadata than was seen before")
    fleet.publisher.rotate("snapshot")
    fleet.publisher.rotate("timestamp")
    assert fleet.pull()[0] == 0
    assert fleet.told() == [("2.0.0", "pending"), ("1.0.0", "good")]


@pytest.mark.parametrize(
    "file", ["../../evil", "/tmp/evil", "stages/../../../evil", "a//b", "manifest.json", "a\\b", "a\nb", ""]
)
def test_names_that_lead_elsewhere_are_not_taken_from_who_may_offer(fleet: Fleet, file: str) -> None:
    """By the targets' own key, even. Nothing is written for it, and what else is offered is not touched by it."""
    fleet.publish("2.0.0")
    own = open_bundle(fleet.plant / "2.0.0", allow_unsigned=True).digest

    def lead(targets: Any) -> None:
        some = next(path for path in targets.targets if path.startswith(FILES))
        targets.targets[BUNDLES + own].custom["files"][file] = some.removeprefix(FILES)

    fleet.forge_up(lead, fleet.signer("targets"))
    code, said, _ = fleet.pull()
    assert (code, "nothing newer" in said) == (0, True)
    assert fleet.told() == [("1.0.0", "good")]
    assert not list(fleet.folder.rglob("*evil*"))


def test_offers_that_contradict_themselves_are_none(fleet: Fleet) -> None:
    fleet.publish("2.0.0")
    own = BUNDLES + open_bundle(fleet.plant / "2.0.0", allow_unsigned=True).digest

    def spoil(targets: Any) -> None:
        good = targets.targets[own]
        targets.targets[BUNDLES + "0" * 64] = good
        targets.targets[f"{BUNDLES}../../x"] = good
        missing = TargetFile(good.length, dict(good.hashes), own)
        missing.unrecognized_fields["custom"] = {**good.custom, "files": {"a": "1" * 64}}
        targets.targets[own] = missing

    fleet.forge_up(spoil, fleet.signer("targets"))
    assert "nothing newer" in fleet.pull()[1]


def test_an_interrupted_download_leaves_the_slots_and_goes_on_where_it_was(fleet: Fleet) -> None:
    """The process is killed in the middle; the next one fetches what is missing."""
    fleet.publish("2.0.0")
    shutil.rmtree(fleet.slots.path(fleet.slots.read().slots[0]) / "stages")
    files = open_bundle(fleet.plant / "2.0.0", allow_unsigned=True).manifest.files
    last = files[max(name for name in files if name.startswith("stages/"))]
    before = fleet.installed()

    def stand(handler: Handler) -> None:
        fleet.server.over.wait(WAIT_S)

    fleet.server.asked.clear()
    fleet.server.answers[last] = stand
    line = ["bundle", "pull", "--repo", fleet.server.url, "--root", fleet.root, "--slots", fleet.slots.folder]
    line += ["--key", fleet.plant / "plant.pem", "--device-id", "d1"]
    with subprocess.Popen(
        [sys.executable, "-m", "edge_runtime", *map(str, line)], cwd=Path(__file__).parents[2]
    ) as process:
        wait_for(lambda: any(asked.endswith(last) for asked in fleet.server.asked), "the last file to be asked for")
        process.kill()
    assert fleet.installed() == before
    fleet.server.answers.clear()
    fleet.server.asked.clear()
    assert fleet.pull()[0] == 0
    assert fleet.told() == [("2.0.0", "pending"), ("1.0.0", "good")]
    fetched = [asked for asked in fleet.server.asked if "/targets/" in asked]
    assert [asked.rpartition(".")[2] for asked in fetched] == [last]
    assert not any((fleet.slots.folder / ".fleet" / "downloads").iterdir())


def test_what_the_client_keeps_may_be_anything(fleet: Fleet) -> None:
    """A power cut leaves any of it half written: it is fetched again."""
    for path in (fleet.slots.folder / ".fleet" / "metadata").rglob("*.json"):
        path.write_bytes(b"x" if "timestamp" in path.name else b"")
    fleet.publish("2.0.0")
    assert fleet.pull()[0] == 0
    assert fleet.told()[0] == ("2.0.0", "pending")


def test_what_lies_among_the_downloads_does_no_harm(fleet: Fleet) -> None:
    """As whoever may write there could put it."""
    fleet.publish("2.0.0")
    downloads = fleet.slots.folder / ".fleet" / "downloads"
    (fleet.folder / "elsewhere").mkdir()
    (fleet.folder / "elsewhere" / "kept").write_text("x")
    (downloads / ("0" * 64)).symlink_to(fleet.folder / "elsewhere")
    own = downloads / open_bundle(fleet.plant / "2.0.0", allow_unsigned=True).digest
    (own / "stages").mkdir(parents=True)
    (own / "stages" / "stray.onnx").write_text("of another attempt")
    (own / "manifest.json").symlink_to(fleet.folder / "elsewhere" / "kept")
    assert fleet.pull()[0] == 0
    assert (fleet.folder / "elsewhere" / "kept").read_text() == "x"


def test_metadata_is_signed_by_whom_it_says(fleet: Fleet) -> None:
    """What the device has kept after all this is what the repository signed."""
    kept: Metadata[Any] = Metadata.from_file(str(fleet.slots.folder / ".fleet" / "metadata" / "root.json"))
    for role in ("timestamp", "snapshot", "targets"):
        one: Metadata[Any] = Metadata.from_file(str(fleet.slots.folder / ".fleet" / "metadata" / f"{role}.json"))
        kept.signed.verify_delegate(role, one.signed_bytes, one.signatures)
