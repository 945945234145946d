"""What is seen of a service from outside: decisions and status as a subscriber process hears them, what honest senders
sent, and which bundle was current when.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.errors import UserError
from tests.chaos.judge import Seen
from tests.chaos.site import Site, slots_of

LOOK_S = 0.05


class Observer:
    """Its lists grow on threads of their own; reading a prefix of them is safe."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.seen = Seen()
        self._site = site
        self._folder = folder
        self._closing = threading.Event()
        python = [sys.executable, "-m"]
        first = self.own_keys(site.work / "0.key.toml", 0)
        self._witness = subprocess.Popen(
            [*python, "tests.hostile.witness", site.decisions], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        self._traffic = subprocess.Popen(
            [*python, "tests.chaos.traffic", site.inputs, site.keyed_inputs, str(first)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._threads = [
            threading.Thread(target=self._hear, args=(self._witness,)),
            threading.Thread(target=self._hear, args=(self._traffic,)),
            threading.Thread(target=self._look),
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, **command: str) -> None:
        """The honest senders what to do; see traffic.py."""
        assert self._traffic.stdin is not None
        self._traffic.stdin.write(json.dumps(command).encode() + b"\n")
        self._traffic.stdin.flush()

    def own_keys(self, made: Path, number: int) -> Path:
        """A client's file that was made at the site, brought here."""
        own = self._folder / f"own-{number}.key.toml"
        shutil.copyfile(made, own)
        own.chmod(0o600)
        return own

    @staticmethod
    def now_ns() -> int:
        return time.monotonic_ns()

    def jumps(self) -> tuple[float, int]:
        """Of the wall clock, and of which life."""
        if not self.seen.statuses:
            return 0.0, 0
        status = self.seen.statuses[-1]["status"]
        return round(status["published_ns"] / 1e9 - status["uptime_s"]), status["wall_clock_jumps"]

    def recording_stopped(self) -> bool:
        recording = self.seen.statuses[-1]["status"]["recording"] if self.seen.statuses else None
        return recording is not None and recording["stopped"] is not None

    def version(self) -> str:
        return str(self.seen.decisions[-1]["version"]) if self.seen.decisions else ""

    def heard_from(self, stream: str, after_ns: int) -> bool:
        """Whether a decision was made on what `stream` sent after that."""
        mark = str(self.seen.decisions[-1]["inputs"].get(stream, [""])[0]) if self.seen.decisions else ""
        return mark.startswith("t") and int(mark[1:]) > after_ns

    def healthy_ns(self, after_ns: int) -> int | None:
        """When it was first heard to be ready, and to decide by the model on a frame of after that."""
        ready = next(
            (one["heard_ns"] for one in since(self.seen.statuses, after_ns) if one["status"]["state"] == "ready"),
            None,
        )
        decided = next(
            (
                one["heard_ns"]
                for one in since(self.seen.decisions, after_ns)
                if one["source"] == "model" and one["captured_ns"] > after_ns
            ),
            None,
        )
        return None if ready is None or decided is None else max(ready, decided)

    def ailing(self, after_ns: int) -> str:
        """What was amiss, by the last status since then that said so."""
        reasons = [one["status"]["reason"] for one in since(self.seen.statuses, after_ns)]
        return next((reason for reason in reversed(reasons) if reason), "")

    def good(self) -> bool:
        """Whether the current bundle has proven itself."""
        return bool(self.seen.current) and self.seen.current[-1][3] == "good"

    def stop_traffic(self) -> None:
        """Returns when all that was sent has left."""
        assert self._traffic.stdin is not None
        self._traffic.stdin.close()
        self._traffic.wait(30)

    def close(self) -> None:
        self._closing.set()
        for process in (self._witness, self._traffic):
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            message: dict[str, Any] = json.loads(line)
            if "sent" in message:
                self.seen.sent.setdefault(message["sent"], []).append(message["at_ns"])
            elif "seq" in message:
                self.seen.decisions.append(message)
            elif "status" in message:
                self.seen.statuses.append(message)

    def _look(self) -> None:
        """Which bundles are installed, and which is current."""
        mark = None
        while not self._closing.wait(LOOK_S):
            with contextlib.suppress(OSError, UserError):
                status = (self._site.slots / "state.json").stat()
                if mark != (mark := (status.st_ino, status.st_mtime_ns)):
                    current = slots_of(self._site).current
                    if current is not None:
                        self.seen.current.append((time.monotonic_ns(), current.digest, current.version, current.state))


def since(messages: list[dict[str, Any]], after_ns: int) -> Iterator[dict[str, Any]]:
    """Those published after that, the eldest first."""
    at = len(messages)
    while at and messages[at - 1]["heard_ns"] > after_ns:
        at -= 1
    for one in messages[at:]:
        published_ns = one["status"]["published_ns"] if "status" in one else one["published_ns"]
        if published_ns > after_ns:
            yield one
