"""The runtime as a systemd service: what is put where, and what keeps a service from working there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from edge_runtime.durable import DISK, replace_file
from edge_runtime.errors import UserError
from edge_runtime.plain_file import read_plain

UNIT, SYSUSERS = "edge-runtime@.service", "sysusers.conf"
UNIT_FILE = Path("/etc/systemd/system") / UNIT
SYSUSERS_FILE = Path("/etc/sysusers.d/edge-runtime.conf")
CONFIGURATIONS = Path("/etc/edge-runtime")
WANTED = Path("/etc/systemd/system/multi-user.target.wants")
RUNNING = Path("/run/systemd/system")
EXAMPLES = ("hub", "car")
_COMMAND = "/opt/edge-runtime/bin/edge-runtime"
"""In the unit file of the tree."""
_GROWING_PAUSES = 254
"""The first systemd that knows pauses between restarts that grow."""
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What the unit's sandbox does not show the service."""

Say = Callable[[str], object]


def install(name: str, configuration: Path | None, example: str, start: bool, say: Say) -> None:
    """Make `edge-runtime@NAME` a service that starts with the machine; with `start`, start it and wait until it
    decides.

    `configuration` is copied to /etc/edge-runtime/NAME.toml; unless given, what is there stays, or `example` is put
    there. Raises UserError for whatever keeps it from working, before anything is changed; and if it does not start,
    with its last words.
    """
    instance = _instance(name)
    _check_machine("install")
    command = _own_command()
    target = CONFIGURATIONS / f"{name}.toml"
    content = _content(configuration, target) if configuration is not None else None
    if content is None and not target.exists():
        content = (resources.files(__package__) / f"{example}.toml").read_bytes()
    unit = _unit(command)
    _put(SYSUSERS_FILE, (resources.files(__package__) / SYSUSERS).read_bytes())
    _call("systemd-sysusers", str(SYSUSERS_FILE))
    _put(UNIT_FILE, unit.encode())
    say(f"{UNIT_FILE}: runs {command}")
    if content is not None:
        _put(target, content)
    say(f"{target}: {'is yours to edit' if content is not None else 'stays as it is'}")
    _call("systemctl", "daemon-reload")
    _call("systemctl", "enable", "--quiet", instance)
    if not start:
        say(f"{instance}: starts with the machine; at once: systemctl start {instance}")
        return
    if _call("systemctl", "restart", instance, check=False).returncode:
        last = _call("journalctl", "--unit", instance, "--lines", "5", "--output", "cat", "--no-pager", check=False)
        words = "; ".join(line for line in last.stdout.splitlines() if line.strip())
        raise UserError(f"service {instance}: is installed and does not start: {words}")
    say(f"{instance}: decides")


def uninstall(name: str, purge: bool, say: Say) -> None:
    """Stop `edge-runtime@NAME`, and no longer start it; with `purge` its configuration, engines and state go too.

    The unit goes with its last service. Raises UserError.
    """
    instance = _instance(name)
    _check_machine("uninstall")
    if not (WANTED / instance).exists():
        installed = ", ".join(path.name for path in sorted(WANTED.glob("edge-runtime@*.service"))) or "none is"
        raise UserError(f"service {instance}: is not installed ({installed})")
    _call("systemctl", "disable", "--quiet", "--now", instance)
    if purge:
        _call("systemctl", "clean", "--what=all", instance, check=False)
        (CONFIGURATIONS / f"{name}.toml").unlink(missing_ok=True)
    _call("systemctl", "reset-failed", instance, check=False)
    others = sorted(path.name for path in WANTED.glob("edge-runtime@*.service"))
    if not others:
        UNIT_FILE.unlink(missing_ok=True)
        SYSUSERS_FILE.unlink(missing_ok=True)
        _call("systemctl", "daemon-reload")
    say(f"{instance}: is gone" + (f"; {', '.join(others)} stay" if others else ""))
    if not purge:
        say(f"{CONFIGURATIONS / name}.toml stays, and what it keeps in /var/lib and /var/cache (--purge removes them)")


def command_of(action: str, name: str, follow: bool = False) -> list[str]:
    """The system's own command line that shows the `status` or the `logs` of `edge-runtime@NAME`."""
    instance = _instance(name)
    if action == "status":
        return ["systemctl", "status", "--no-pager", "--lines", "10", instance]
    return ["journalctl", "--unit", instance, "--lines", "100", *(["--follow"] if follow else ["--no-pager"])]


def _instance(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) is None:
        raise UserError(f"service {name!r}: expected a letter or digit, then at most 63 of those, `_`, `.` and `-`")
    return f"edge-runtime@{name}.service"


def _check_machine(action: str) -> None:
    if not RUNNING.is_dir():
        raise UserError(f"service {action}: systemd does not run this machine; use `edge-runtime run`")
    if os.geteuid() != 0:
        raise UserError(f"service {action}: changes the system; call it with sudo")


def _own_command() -> Path:
    """This installation's `edge-runtime`. Raises UserError where a service could not see it."""
    import edge_runtime

    command = Path(sys.executable).with_name("edge-runtime")
    if not command.is_file():
        raise UserError(f"service: there is no {command}; install the package with pip into an environment of its own")
    needed = {command, Path(sys.executable).resolve(), Path(edge_runtime.__file__).resolve()}
    for path in sorted(needed):
        if hidden := next((place for place in _HIDDEN if path.is_relative_to(place)), None):
            raise UserError(
                f"service: {path} lies in {hidden}, which services do not see; install into /opt/edge-runtime"
            )
    if re.search(r"[\s%\"'\\$]", str(command)):
        raise UserError(f"service: {command}: a unit file takes no such path; install into /opt/edge-runtime")
    return command


def _unit(command: Path) -> str:
    """The unit file for this installation, without what this machine's systemd does not know."""
    text = (resources.files(__package__) / UNIT).read_text().replace(_COMMAND, str(command))
    told = re.match(r"systemd (\d+)", _call("systemctl", "--version").stdout)
    if told is not None and int(told[1]) < _GROWING_PAUSES:
        text = re.sub(r"^Restart(Steps|MaxDelaySec)=.*\n", "", text, flags=re.MULTILINE)
    return text


def _content(configuration: Path, target: Path) -> bytes:
    """The configuration's text, if it means the same at `target`. Raises UserError."""
    from edge_runtime.config import MAX_CONFIG_BYTES, load_config

    if load_config(configuration) != load_config(configuration, target):
        raise UserError(
            f"config {configuration}: has paths that start at its own folder, and goes to {target}; write them in full"
        )
    return read_plain(configuration, MAX_CONFIG_BYTES)


def _put(path: Path, content: bytes) -> None:
    """Whole or not at all, for everybody to read. Raises UserError."""
    try:
        DISK.make_folders(path.parent)
        replace_file(DISK, path, content)
    except OSError as error:
        raise UserError(f"service: {path}: {error.strerror}") from None


def _call(*line: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Raises UserError with the command's own words where it fails."""
    done = subprocess.run(line, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise UserError(f"service: `{' '.join(line)}` failed: {' '.join(done.stderr.split())}")
    return done
