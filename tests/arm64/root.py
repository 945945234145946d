"""Another system's root folder, run by emulating its processor: debootstrap and QEMU's user mode. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

EMULATOR = "/usr/bin/qemu-aarch64-static"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
# An ELF file of 64 bits, little-endian, executable or shared, for arm64 (e_type 2 or 3, e_machine 183). `F`: the
# emulator is opened now, so that it is found in any root.
_MAGIC = rb"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
ENTRY = b":qemu-aarch64:M::" + _MAGIC + b":" + _MASK + b":" + EMULATOR.encode() + b":F"
_PACKAGES = "python3,python3-venv,python3-dev,ca-certificates"
_KEPT = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_PROCESSORS = "sys/devices/system/cpu"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


class Release(Struct, frozen=True):
    """A distribution's release, from the mirror that debootstrap knows for it."""

    components: str
    like: str
    """What has the same Python."""


RELEASES = {
    "bookworm": Release("main", "Python 3.11; between JetPack 6 and 7"),
    "jammy": Release("main,universe", "Python 3.10, as JetPack 6"),
    "noble": Release("main,universe", "Python 3.12, as JetPack 7"),
}


def why_not() -> str:
    """Why no such root can be had here; empty if one can."""
    if os.geteuid() != 0:
        return "debootstrap and chroot need root"
    missing = [tool for tool in ("debootstrap", "unshare", EMULATOR) if shutil.which(tool) is None]
    return f"no {', '.join(missing)}: apt-get install debootstrap qemu-user-static" if missing else ""


def make(root: Path, suite: str) -> None:
    """An arm64 `suite` in `root`, unless it is there already. Raises CalledProcessError."""
    ready = root / "bootstrapped"
    if ready.exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    release = RELEASES[suite]
    line = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", f"--include={_PACKAGES}"]
    subprocess.run([*line, f"--components={release.components}", suite, str(root)], check=True)
    System(root).run("/debootstrap/debootstrap", "--second-stage")
    ready.touch()


class System:
    """A root that commands can be run in."""

    def __init__(self, root: Path) -> None:
        """This machine's names and certificates are good in it too."""
        _emulate()
        self.root = root
        for name in ("etc/resolv.conf", "etc/hosts", _CERTIFICATES):
            if (Path("/") / name).exists():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).unlink(missing_ok=True)
                shutil.copyfile(Path("/") / name, root / name)
        # ONNX Runtime cannot do without these, and crashes by what this machine's /sys says of its own processor.
        (root / _PROCESSORS).mkdir(parents=True, exist_ok=True)
        for name in ("possible", "present"):
            (root / _PROCESSORS / name).write_text(f"0-{(os.cpu_count() or 1) - 1}\n")

    def run(self, *line: str, **environment: str) -> None:
        """In `/src`, or `/` where there is none. /proc and /dev are there, in a mount namespace that ends with it:
        whoever deletes the root deletes nothing of this machine's. Output goes where this process's does. Raises
        CalledProcessError.
        """
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        plain = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        inside = ["unshare", "--mount", "sh", "-c", _ENTER, str(self.root), *line]
        subprocess.run(inside, check=True, env={**plain, **kept, **environment})


_ENTER = """set -e
mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"
exec chroot "$0" sh -c '[ -d /src ] && cd /src; exec "$@"' sh "$@"
"""


def _emulate() -> None:
    """Have the kernel run arm64 programs by QEMU, if it does not yet."""
    if not (BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    if not (BINFMT / "qemu-aarch64").exists():
        (BINFMT / "register").write_bytes(ENTRY)
