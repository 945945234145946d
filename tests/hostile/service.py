"""The service under attack: `edge-runtime run` with the shipped vehicle bundle, under a memory limit, watched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edge_runtime import keyring

LIMIT_MB = 2048
"""As MemoryMax of the systemd unit."""
ADDRESSES_MB = 6144
"""Of address space, where there is no control group: a backstop for the machine, far above what may be resident."""
FILES = 1024
"""File descriptors, as systemd gives them: fewer than attackers have connections."""
SAMPLE_S = 0.1
START_S = 60.0
CONFIG = """
name = "hostile"
bundle = "shipped:vehicle"
allow_unsigned = true
[[sink]]
kind = "zmq"
bind = "{decisions}"
keys = "{keys}"
[[source]]
kind = "zmq"
bind = "{inputs}"
keys = "{keys}"
{options}
"""


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def limiter() -> tuple[list[str], str]:
    """A command prefix that limits memory, and what it is in words.

    A control group of systemd where systemd runs; else the sampled resident memory, at which Service kills.
    """
    files = ["sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh"]
    if Path("/run/systemd/system").is_dir() and os.geteuid() == 0:
        scope = ["systemd-run", "--scope", "--quiet", "-p", f"MemoryMax={LIMIT_MB}M", "-p", "MemorySwapMax=0", "--"]
        return [*scope, *files], f"control group of systemd, MemoryMax={LIMIT_MB}M, no swap"
    files[2] = f"ulimit -v {ADDRESSES_MB * 1024}; {files[2]}"
    words = f"killed where the processes' resident memory, looked at every {SAMPLE_S:g} s, exceeds {LIMIT_MB} MiB"
    return files, f"{words}; address space {ADDRESSES_MB} MiB (no systemd here, so no control group)"


@dataclass(frozen=True, slots=True)
class Sample:
    """What the service's processes took together at one moment."""

    at_ns: int
    memory_mb: float
    cpu_s: float


@dataclass
class Service:
    """Started by `serve`. Its lists grow on threads of their own; reading a prefix of them is safe."""

    process: subprocess.Popen[bytes]
    inputs: str
    decisions_at: str
    limit: str
    log_path: Path
    honest: subprocess.Popen[bytes]
    keys: tuple[str, ...] = ()
    """The file of a client that may send and listen, where the doors have keys."""
    frames_ns: list[int] = field(default_factory=list)
    """When the honest camera had a frame."""
    decisions: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    killed_for_memory: bool = False
    honest_sent: int = 0
    """Messages of the honest senders, once they have ended."""
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def log_lines(self) -> list[str]:
        return self.log_path.read_bytes().decode("utf-8", "replace").removesuffix("\n").split("\n")

    def family(self) -> list[psutil.Process]:
        """It and its children."""
        try:
            main = psutil.Process(self.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop_honest(self) -> int:
        """End the honest senders; how many messages they have sent."""
        self.honest.send_signal(signal.SIGTERM)
        self.honest.wait(20)
        deadline = time.monotonic() + 20
        while not self.honest_sent and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.honest_sent

    def wait_for_status(self, after_ns: int, timeout_s: float) -> dict[str, Any] | None:
        """The newest status message that was heard later than `after_ns`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.alive:
            if self.statuses and self.statuses[-1]["heard_ns"] > after_ns:
                return self.statuses[-1]
            time.sleep(0.05)
        return None

    def hear(self, process: subprocess.Popen[bytes]) -> None:
        """Read the lines of the witness or the honest senders until it ends."""
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if "frame_ns" in message:
                self.frames_ns.append(message["frame_ns"])
            elif "sent" in message:
                self.honest_sent = message["sent"]
            elif "seq" in message:
                self.decisions.append(message)
            elif "status" in message:
                self.statuses.append(message)

    def watch(self) -> None:
        """Sample memory and CPU until the end; kill what takes more than it may."""
        while not self._ended.wait(SAMPLE_S):
            memory = cpu = 0.0
            for process in self.family():
                with contextlib.suppress(psutil.Error):
                    memory += process.memory_info().rss / (1 << 20)
                    cpu += sum(process.cpu_times()[:2])
            if memory:
                self.samples.append(Sample(time.monotonic_ns(), memory, cpu))
            if memory > LIMIT_MB:
                self.killed_for_memory = True
                self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 10.0) -> int:
        """Its exit code; killed if it does not end by itself."""
        family = self.family()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return code


@contextlib.contextmanager
def serve(options: str = "", keyed: bool = False) -> Iterator[Service]:
    """The service with a subscriber process and honest senders beside it; all ended on the way out.

    `options` are more lines for the input socket's row; `keyed`: both doors have keys. Raises TimeoutError if it does
    not decide.
    """
    inputs, decisions = free_endpoint(), free_endpoint()
    prefix, limit = limiter()
    python = [sys.executable, "-m"]
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="hostile-")))
        config, log_path = folder / "hostile.toml", folder / "service.log"
        keys, own = folder / "keys", tuple(str(folder / f"{name}.key.toml") for name in ("honest", "known"))
        if keyed:
            keyring.make_server(keys)
            for path in own:
                keyring.make_client(keys, Path(path).name.partition(".")[0], (keyring.ANY,), True, Path(path))
        places = {"inputs": inputs, "decisions": decisions, "keys": keys if keyed else ""}
        config.write_text(CONFIG.format(options=options, **places), encoding="utf-8")
        log = cleanup.enter_context(log_path.open("wb"))

        def start(command: list[str], **pipes: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **pipes)
            cleanup.callback(process.wait)
            cleanup.callback(process.kill)
            return process

        guest = own[:1] if keyed else ()
        honest = start([*python, "tests.hostile.honest", inputs, *guest], stdout=subprocess.PIPE)
        witness = start([*python, "tests.hostile.witness", decisions, *guest], stdout=subprocess.PIPE)
        process = start([*prefix, *python, "edge_runtime", "run", str(config)], stdout=log, stderr=log)
        service = Service(process, inputs, decisions, limit, log_path, honest, own[1:] if keyed else ())
        cleanup.callback(service.end)
        cleanup.callback(service._ended.set)
        for beside in (witness, honest):
            threading.Thread(target=service.hear, args=(beside,), daemon=True).start()
        threading.Thread(target=service.watch, daemon=True).start()
        deadline = time.monotonic() + START_S
        while not any(one["source"] == "model" for one in service.decisions):
            if not service.alive or time.monotonic() > deadline:
                raise TimeoutError(f"the service does not decide: {service.log_lines()[-3:]}")
            time.sleep(0.05)
        yield service
