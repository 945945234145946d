"""A fleet: a repository on a real server, a device with slots, and the ways in which either may be attacked."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile

from build_engines.publish import Publisher
from edge_runtime.bundle import open_bundle, sign_bundle
from edge_runtime.cli import commands, run_command
from edge_runtime.signing_keys import generate_keys
from edge_runtime.slots import Slots, State
from tests import tiny

Answer = Callable[[http.server.SimpleHTTPRequestHandler], None]


class Server:
    """Serves a folder on loopback; what ends in one of `answers` is answered by that instead."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.answers: dict[str, Answer] = {}
        self.over = threading.Event()
        """Set when the server ends: a handler that takes its time ends with it."""
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(server.folder))

            def do_GET(self) -> None:
                server.asked.append(self.path)
                for end, answer in server.answers.items():
                    if self.path.endswith(end):
                        return answer(self)
                return super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """Start a server for a folder."""
    servers = []

    def start(folder: Path) -> Server:
        servers.append(Server(folder))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed bundles by version, the plant's keys, and a bundle `evil` of another's key."""
    folder = tmp_path_factory.mktemp("plant")
    secret, _ = generate_keys(folder / "plant")
    other, _ = generate_keys(folder / "other")
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        tiny.write_bundle(folder / version, version=version)
        sign_bundle(folder / version, secret)
    tiny.write_bundle(folder / "evil", version="9.9.9")
    sign_bundle(folder / "evil", other)
    return folder


def put(**fields: Any) -> Callable[[Any], None]:
    """A change that puts these values into a role's metadata."""

    def change(signed: Any) -> None:
        for name, value in fields.items():
            setattr(signed, name, value)

    return change


@dataclass
class Fleet:
    """A repository with one device of it."""

    folder: Path
    plant: Path
    server: Server
    capsys: pytest.CaptureFixture[str]
    slots: Slots
    publisher: Publisher
    root: Path
    """The device's own copy, of when it was made."""
    options: list[str] = field(default_factory=list)

    @property
    def metadata(self) -> Path:
        return self.publisher.folder / "metadata"

    def publish(self, version: str, **more: Any) -> None:
        self.publisher.publish(open_bundle(self.plant / version, [self.plant / "plant.pem"]), **more)

    def pull(self, *more: str) -> tuple[int, str, str]:
        """`edge-runtime bundle pull` on the device: exit code, what it said, what went wrong."""
        self.capsys.readouterr()
        line = ["bundle", "pull", "--repo", self.server.url, "--root", self.root, "--slots", self.slots.folder]
        line += ["--key", self.plant / "plant.pem", "--device-id", "d1", "--machine", "m1", "--compute", ""]
        code = run_command(commands, [*map(str, line), *self.options, *more])
        return code, *self.capsys.readouterr()

    def good(self, version: str) -> None:
        """Publish that version, and have the device pull it, and find it good."""
        self.publish(version)
        code, _, wrong = self.pull()
        assert code == 0, wrong
        current = self.slots.read().current
        assert current is not None and current.version == version
        self.slots.passed(current)

    def told(self) -> list[tuple[str, str]]:
        return [(slot.version, slot.state) for slot in self.slots.read().slots]

    def installed(self) -> tuple[State, dict[str, bytes]]:
        """The state of the slots, and every byte in them."""
        files = (path for path in self.slots.folder.glob("[0-9]*/**/*") if path.is_file())
        return self.slots.read(), {str(path): path.read_bytes() for path in files}

    def refuses(self, why: str, *more: str) -> None:
        """A pull ends in one line that says `why`, with exit code 2, and the slots are as they were."""
        before = self.installed()
        code, said, wrong = self.pull(*more)
        assert (code, said, wrong.count("\n")) == (2, "", 1), wrong
        assert wrong.startswith("error: ") and why in wrong
        assert self.installed() == before
        assert not (self.slots.folder / ".staging").exists()

    def keep(self) -> Path:
        """A copy of the repository as it is now."""
        return Path(shutil.copytree(self.publisher.folder, self.folder / f"copy{len(self.server.asked)}"))

    def signer(self, role: str, keys: Path | None = None) -> CryptoSigner:
        """A role's key, as who has stolen it uses it."""
        (path,) = (keys or self.folder / "keys").glob(f"{role}-*.key")
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))  # type: ignore[arg-type]

    def forge(self, name: str, change: Callable[[Any], None], *signers: CryptoSigner) -> MetaFile:
        """Change the metadata file `name` in the repository, and sign it with these keys alone."""
        path = self.metadata / name
        forged: Metadata[Any] = Metadata.from_file(str(path))
        change(forged.signed)
        forged.signatures.clear()
        for signer in signers:
            forged.sign(signer, append=True)
        path.write_bytes(forged.to_bytes())
        return MetaFile.from_data(forged.signed.version, path.read_bytes(), ["sha256"])

    def forge_up(self, change: Callable[[Any], None], signer: CryptoSigner) -> None:
        """Change what is offered, signed with `signer` in the role `targets`; the keys of `snapshot` and `timestamp`
        are stolen too, so that all that is below is in order.
        """
        version = self.snapshot_version()
        targets = self.forge(f"{self.targets_version()}.targets.json", change, signer)
        snapshot = self.forge(
            f"{version}.snapshot.json", lambda it: it.meta.update({"targets.json": targets}), self.signer("snapshot")
        )
        self.forge("timestamp.json", put(snapshot_meta=snapshot), self.signer("timestamp"))

    def snapshot_version(self) -> int:
        timestamp: Metadata[Any] = Metadata.from_file(str(self.metadata / "timestamp.json"))
        return int(timestamp.signed.snapshot_meta.version)

    def targets_version(self) -> int:
        snapshot: Metadata[Any] = Metadata.from_file(str(self.metadata / f"{self.snapshot_version()}.snapshot.json"))
        return int(snapshot.signed.meta["targets.json"].version)


@pytest.fixture(scope="session")
def begun(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that offers version 1.0.0, its keys, its first root, and slots where that is good."""
    folder = tmp_path_factory.mktemp("begun")
    publisher = Publisher(folder / "repo", folder / "keys")
    publisher.create()
    bundle = open_bundle(plant / "1.0.0", [plant / "plant.pem"])
    publisher.publish(bundle)
    shutil.copy(publisher.root_file, folder / "root.json")
    slots = Slots(folder / "slots")
    slots.passed(slots.install(bundle.path, [plant / "plant.pem"]))
    return folder


@pytest.fixture
def fleet(
    begun: Path, tmp_path: Path, plant: Path, serve: Callable[[Path], Server], capsys: pytest.CaptureFixture[str]
) -> Fleet:
    """One whose device runs version 1.0.0, and has seen that nothing else is offered yet."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    publisher = Publisher(tmp_path / "repo", tmp_path / "keys")
    server = serve(publisher.folder)
    made = Fleet(tmp_path, plant, server, capsys, Slots(tmp_path / "slots"), publisher, tmp_path / "root.json")
    assert "nothing newer" in made.pull()[1]
    return made
