"""A machine of its own with a real systemd, for the tests of the service: this machine's system over a root that is
thrown away, in namespaces. Needs root and systemd; ports are this machine's.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec

ROOT = Path(__file__).parents[2]
BOOT = Path(__file__).with_name("boot.sh")
BOOT_S = 60.0
COMMAND = "/opt/edge-runtime/bin/edge-runtime"
_WRITE = 'mkdir -p "$(dirname "$0")"; cat > "$0"'
_SCRIPT = "#!/opt/edge-runtime/bin/python\nfrom edge_runtime.cli import main\nmain()\n"


def why_not() -> str:
    """Why no machine can be had here; empty if one can."""
    if os.geteuid() != 0:
        return "a machine of its own needs root"
    missing = [tool for tool in ("unshare", "nsenter", "systemctl", "dbus-daemon") if shutil.which(tool) is None]
    if missing or not Path("/lib/systemd/systemd").exists():
        return f"no {', '.join(missing) or '/lib/systemd/systemd'} here: apt-get install systemd dbus"
    return ""


class Machine:
    """Booted by its constructor, which raises RuntimeError with the reason where that fails."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        """`bundle` is at /opt/bundle inside; an environment with this tree's packages at /opt/edge-runtime."""
        folder.mkdir()
        places = {
            ROOT: "/opt/src",
            _packages(): "/opt/packages",
            Path(sys.base_prefix): "/opt/python",
            bundle: "/opt/bundle",
        }
        line = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "bash", str(BOOT), str(folder)]
        for source, target in places.items():
            line += [str(source), target]
        self._log = (folder.parent / "boot.log").open("w+")
        self._process = subprocess.Popen(line, stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self._init = ""
        try:
            self._wait()
            self._environment()
        except BaseException:
            self.close()
            raise

    def run(self, *line: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """A command inside, as root."""
        done = subprocess.run(
            ["nsenter", "-t", self._init, "-m", "-p", "-u", "-i", "-C", "-r", "-w", *line],
            capture_output=True, text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL, env=_PLAIN,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(line)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def shell(self, text: str, check: bool = True) -> str:
        return self.run("bash", "-c", text, check=check).stdout

    def write(self, path: str, content: str) -> None:
        subprocess.run(
            ["nsenter", "-t", self._init, "-m", "-r", "-w", "bash", "-c", _WRITE, path],
            input=content.encode(), check=True,
        )  # fmt: skip

    @property
    def root(self) -> Path:
        """Its root, as seen from this machine."""
        return Path(f"/proc/{self._init}/root")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """What systemd knows of a unit."""
        told = self.run("systemctl", "show", unit, *(f"-p{name}" for name in properties)).stdout
        return dict(line.split("=", 1) for line in told.splitlines())

    def close(self) -> None:
        """Nothing of it is left: its first process takes all others and the root with it."""
        if self._init:
            subprocess.run(["kill", "-9", self._init], check=False, capture_output=True)
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"it did not boot: {self._said()}")
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            if children and b"systemd" in Path(f"/proc/{children[0]}/cmdline").read_bytes():
                self._init = children[0]
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in {"running", "degraded"}:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"it did not boot within {BOOT_S:.0f} s: {self._said()}")

    def _said(self) -> str:
        self._log.seek(0)
        return " ".join(self._log.read().split())[-500:]

    def _environment(self) -> None:
        """An environment as pip would have made it, where services see it."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.run(f"/opt/python/bin/{version}", "-m", "venv", "--without-pip", "/opt/edge-runtime")
        self.write(f"/opt/edge-runtime/lib/{version}/site-packages/all.pth", "/opt/src\n/opt/packages\n")
        self.write(COMMAND, _SCRIPT)
        self.run("chmod", "755", COMMAND)


def _packages() -> Path:
    """Where this environment's packages are."""
    assert cv2.__file__ is not None and msgspec.__file__ is not None
    places = {Path(module.__file__).parents[1] for module in (cv2, msgspec)}
    assert len(places) == 1, f"packages in {places}"
    return places.pop()


def free_ports(count: int) -> Sequence[int]:
    """Ports that nobody has; another one may still take them."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


_PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
