"""`python -m tests.installs.figures`: how long an installation and a switch take, and how long nothing is heard.

A service drives the built-in world with the shipped `vehicle` bundle from slots, in a process of its own; two versions
of it are installed in turn.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from edge_runtime import Subscriber
from edge_runtime.bundle import MANIFEST, encode_manifest, open_bundle, sign_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.infer.rehearsal import rehearse
from edge_runtime.signing_keys import generate_keys
from edge_runtime.slots import Slots, Trial
from edge_runtime.wire import DecisionMessage

CONFIG = """
name = "car"
bundle = "slot:slots"
trusted_keys = ["plant.pem"]
[[source]]
kind = "world"
bind = "ipc://{folder}/in"
duration_s = 3600.0
[[sink]]
kind = "zmq"
bind = "ipc://{folder}/out"
"""
TRIAL_S = 3.0


def version(folder: Path, name: str, secret: Path) -> Path:
    """The shipped bundle by that version, signed."""
    bundle = Path(shutil.copytree(bundle_path("shipped:vehicle"), folder / name))
    manifest = open_bundle(bundle, allow_unsigned=True).manifest
    (bundle / MANIFEST).write_bytes(encode_manifest(msgspec.structs.replace(manifest, version=name)))
    sign_bundle(bundle, secret)
    return bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=int, default=10)
    switches = parser.parse_args().switches
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        secret, public = generate_keys(folder / "plant")
        bundles = [version(folder, one, secret) for one in ("1.0.0", "2.0.0")]
        slots = Slots(folder / "slots")
        slots.passed(slots.install(bundles[0], [public]))
        (folder / "car.toml").write_text(CONFIG.format(folder=folder))
        command = [sys.executable, "-m", "edge_runtime", "run", str(folder / "car.toml")]
        service = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        installs_ms, switches_ms, silences_ms, bad = [], [], [], []
        try:
            with Subscriber(f"ipc://{folder}/out") as subscriber:
                while not hear(subscriber, 1.0):
                    pass
                usual_ms = gaps_ms(hear(subscriber, 5.0))
                for number in range(switches):
                    source = bundles[(number + 1) % 2]
                    start = time.monotonic()
                    slot = slots.install(
                        source, [public], trial=lambda bundle: Trial(TRIAL_S), downgrade=True, check=rehearse
                    )
                    done = time.monotonic()
                    installs_ms.append((done - start) * 1e3)
                    heard = hear(subscriber, TRIAL_S)
                    while any(one.state == "pending" for one in slots.read().slots):
                        heard += hear(subscriber, 0.5)
                    new = next(at for at, message in heard if message.bundle.digest == slot.digest)
                    switches_ms.append((new - done) * 1e3)
                    silences_ms.append(max(gaps_ms(heard)))
                    bad += [one.reason for one in slots.read().slots if (one.folder, one.state) == (slot.folder, "bad")]
                lost = subscriber.lost
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()
    print(f"{switches} switches, decisions lost: {lost}; trials that failed: {bad or 'none'}")
    for what, values in (
        ("install (verify, rehearse, copy, sync)", installs_ms),
        ("from then to the first decision of the new one", switches_ms),
        ("longest silence around a switch", silences_ms),
    ):
        print(f"{what}: median {statistics.median(values):.0f} ms, longest {max(values):.0f} ms")
    print(f"between decisions without one: median {statistics.median(usual_ms):.0f} ms, longest {max(usual_ms):.0f} ms")


def hear(subscriber: Subscriber, seconds: float) -> list[tuple[float, DecisionMessage]]:
    """The decisions of that time, with when they came."""
    heard = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        message = subscriber.receive(left)
        if isinstance(message, DecisionMessage):
            heard.append((time.monotonic(), message))
    return heard


def gaps_ms(heard: list[tuple[float, DecisionMessage]]) -> list[float]:
    """From each to the next, as published."""
    published = [message.published_ns for _, message in heard]
    return [(after - before) / 1e6 for before, after in itertools.pairwise(published)]


if __name__ == "__main__":
    main()
