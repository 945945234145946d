"""Where the service lives: under a real systemd in a machine of its own, or as a process that is started again here."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from edge_runtime import keyring
from edge_runtime.signing_keys import generate_keys
from edge_runtime.slots import Slots, State
from tests.chaos import bundles
from tests.hostile.service import free_endpoint
from tests.service.machine import COMMAND, Machine

NAME = "chaos"
CLIENT = "honest"
FIRST, FIRST_TRIAL_S = "1.0.0", 2.0
"""The version that is there at the start, and in how long it has to prove itself then."""
WEIGHT = 2000
"""Of all services together, beside each process outside, which has 100: other work here must not be what is judged."""
DISK = "256M"
"""Of the file system that recordings lie in."""
CLOCK = Path(__file__).with_name("stepped_clock.c")
CONFIG = """
name = "{name}"
bundle = "slot:{slots}"
trusted_keys = ["{key}"]
[[sink]]
kind = "zmq"
bind = "{decisions}"
high_water_mark = 20000
[[sink]]
kind = "zmq"
bind = "{keyed_decisions}"
keys = "{keys}"
{more}
[[source]]
kind = "zmq"
bind = "{inputs}"
[[source]]
kind = "zmq"
bind = "{keyed_inputs}"
keys = "{keys}"
"""


class Site(Protocol):
    """One service, and what can be done to it. Paths are as they are seen from here."""

    inputs: str
    keyed_inputs: str
    decisions: str
    keyed_decisions: str
    slots: Path
    keys: Path
    work: Path
    """A folder for bundles and clients' keys."""
    key: Path
    secret: Path
    """With which bundles are signed."""
    disk: Path | None
    """Folder of recordings, a small file system of its own; None where there is none."""
    clock: Path | None
    """Holds how many seconds the service's wall clock is ahead; None where it has no clock of its own."""

    def command(self, *line: str, kill_after_s: float | None = None) -> subprocess.CompletedProcess[str]:
        """`edge-runtime` by the machine's owner; killed after a while."""

    def start(self) -> None:
        """For the first time: senders are there already, or the first bundle could not prove itself."""

    def signal(self, number: signal.Signals) -> None:
        """To the service's main process, if there is one."""

    def restart(self) -> None:
        """An orderly end, and a new start; returns once it decides."""

    def restarts(self) -> int:
        """How often it was started again by itself."""

    def log(self) -> str: ...

    def path(self, place: Path) -> str:
        """`place` as the service and its owner's commands name it."""


class _Places:
    """What both sites have below a root."""

    def __init__(self, root: Path, work: Path, slots: Path, keys: Path) -> None:
        self._root = root
        self.inputs, self.keyed_inputs = free_endpoint(), free_endpoint()
        self.decisions, self.keyed_decisions = free_endpoint(), free_endpoint()
        self.work, self.slots, self.keys = work, slots, keys
        self.secret, self.key = work / "plant.key", work / "plant.pem"
        self.disk: Path | None = None
        self.clock: Path | None = None

    def path(self, place: Path) -> str:
        return str(Path("/") / place.relative_to(self._root))

    def config(self, more: str = "") -> str:
        return CONFIG.format(
            name=NAME, slots=self.path(self.slots), key=self.path(self.key), keys=self.path(self.keys),
            decisions=self.decisions, keyed_decisions=self.keyed_decisions, inputs=self.inputs,
            keyed_inputs=self.keyed_inputs, more=more,
        )  # fmt: skip


class MachineSite(_Places):
    """`edge-runtime@chaos.service`, installed by the command, with a disk of its own for its recordings."""

    def __init__(self, machine: Machine) -> None:
        state = machine.root / "var/lib/edge-runtime" / NAME
        super().__init__(
            machine.root, machine.root / "root/chaos", state / "slots", machine.root / "etc/edge-runtime/keys"
        )
        self._machine = machine
        self._unit = f"edge-runtime@{NAME}.service"
        self.work.mkdir(parents=True)
        self.command("bundle", "keygen", self.path(self.work / "plant"))
        trusted = machine.root / "opt/plant.pem"
        shutil.copy(self.key, trusted)
        self.key = trusted
        self.disk = state / "recordings"
        row = f'[[sink]]\nkind = "recording"\npath = "{self.path(self.disk)}/drive.mcap"\n'
        if library := compiled_clock(machine.root / "opt/chaos"):
            self.clock = library.with_name("ahead")
            machine.write(
                f"/etc/systemd/system/{self._unit}.d/clock.conf",
                f"[Service]\nEnvironment=LD_PRELOAD={self.path(library)} CLOCK_AHEAD={self.path(self.clock)}\n",
            )
        machine.write("/etc/systemd/system/system.slice.d/weight.conf", f"[Slice]\nCPUWeight={WEIGHT}\n")
        machine.write("/root/chaos.toml", self.config(row))
        machine.run(COMMAND, "keys", "generate", self.path(self.keys))
        machine.shell("echo 'u edge-runtime -' | systemd-sysusers -")
        machine.shell(f"chgrp -R edge-runtime {self.path(self.keys)} && chmod -R g+rX {self.path(self.keys)}")
        self.command("keys", "generate", self.path(self.keys), "--client", CLIENT, "--send", "*", "--receive",
                     "--out", self.path(self.work / "0.key.toml"))  # fmt: skip
        machine.shell(
            f"install -d -o edge-runtime -m 700 {self.path(state)} {self.path(self.disk)} &&"
            f" mount -t tmpfs -o size={DISK},mode=700,uid=$(id -u edge-runtime) none {self.path(self.disk)}"
        )
        first = bundles.write_bundle(self.work / FIRST, FIRST, self.secret)
        done = self.command("bundle", "install", "--slots", self.path(self.slots), "--key", self.path(self.key),
                            "--trial", str(FIRST_TRIAL_S), self.path(first))  # fmt: skip
        assert done.returncode == 0, done.stderr
        machine.run(COMMAND, "service", "install", NAME, "--config", "/root/chaos.toml")

    def start(self) -> None:
        self._machine.run("systemctl", "start", "--no-block", self._unit)

    def command(self, *line: str, kill_after_s: float | None = None) -> subprocess.CompletedProcess[str]:
        cut = () if kill_after_s is None else ("timeout", "-s", "KILL", f"{kill_after_s:.3f}")
        return self._machine.run(*cut, COMMAND, *line, check=False)

    def signal(self, number: signal.Signals) -> None:
        self._machine.run("systemctl", "kill", "--kill-whom=main", "-s", number.name, self._unit, check=False)

    def restart(self) -> None:
        self._machine.run("systemctl", "restart", self._unit)

    def restarts(self) -> int:
        return int(self._machine.show(self._unit, "NRestarts")["NRestarts"])

    def log(self) -> str:
        return self._machine.run("journalctl", "-u", self._unit, "-o", "cat", "--no-pager").stdout


class ProcessSite(_Places):
    """`edge-runtime run`, started again a while after it has ended, as systemd does; without a disk of its own."""

    PAUSE_S = 0.2

    def __init__(self, folder: Path) -> None:
        super().__init__(Path("/"), folder, folder / "slots", folder / "keys")
        self._environment = dict(os.environ)
        if library := compiled_clock(folder / "clock"):
            self.clock = library.with_name("ahead")
            self._environment |= {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self.clock)}
        generate_keys(folder / "plant")
        keyring.make_server(self.keys)
        keyring.make_client(self.keys, CLIENT, (keyring.ANY,), True, folder / "0.key.toml")
        first = bundles.write_bundle(folder / FIRST, FIRST, self.secret)
        slots = Slots(self.slots)
        slots.passed(slots.install(first, [self.key]))
        (folder / "chaos.toml").write_text(self.config(), encoding="utf-8")
        self._log = folder / "service.log"
        self._restarts = 0
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def start(self) -> None:
        self._process = self._begin()
        self._keeper.start()

    def command(self, *line: str, kill_after_s: float | None = None) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_runtime", *line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            out, errors = process.communicate(timeout=kill_after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, errors = process.communicate()
        return subprocess.CompletedProcess(line, process.returncode, out, errors)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def restart(self) -> None:
        self.signal(signal.SIGTERM)

    def restarts(self) -> int:
        return self._restarts

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Nothing of it is left."""
        self._closing.set()
        if self._process is not None:
            self._process.kill()
            self._keeper.join()

    def _begin(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "edge_runtime", "run", str(self.work / "chaos.toml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
            )  # fmt: skip

    def _keep(self) -> None:
        while not self._closing.is_set():
            assert self._process is not None
            self._process.wait()
            if self._closing.wait(self.PAUSE_S):
                return
            self._restarts += 1
            self._process = self._begin()


def slots_of(site: Site) -> State:
    """What is installed now."""
    return Slots(site.slots).read()


def compiled_clock(folder: Path) -> Path | None:
    """The library that gives a service a wall clock of its own, with the file `ahead` beside it; None without gcc."""
    if shutil.which("gcc") is None:
        return None
    folder.mkdir(parents=True)
    library = folder / "clock.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, CLOCK], check=True)
    (folder / "ahead").write_bytes(bytes(8))
    return library


def step_clock(site: Site, seconds: int) -> None:
    """The service's wall clock is that far ahead of this machine's from now on."""
    assert site.clock is not None
    with site.clock.open("r+b") as file:  # in place: the service has it mapped
        file.write(struct.pack("<q", seconds))


@contextlib.contextmanager
def machine_site(folder: Path) -> Iterator[MachineSite]:
    """A booted machine with the service. Raises RuntimeError where none can be had."""
    empty = folder / "nothing"
    empty.mkdir()
    machine = Machine(folder / "root", empty)
    try:
        yield MachineSite(machine)
    finally:
        machine.close()


@contextlib.contextmanager
def process_site(folder: Path) -> Iterator[ProcessSite]:
    """The service as a process of this machine's."""
    site = ProcessSite(folder)
    try:
        yield site
    finally:
        site.close()


def wait_until(condition, seconds: float) -> bool:  # type: ignore[no-untyped-def]
    """Whether it comes to hold within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
