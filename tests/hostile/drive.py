"""What is done to a service, part by part, and what is heard meanwhile."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from tests.hostile.attacks import ATTACKS, Attack
from tests.hostile.judge import MEMORY, Figures, Heard, broken, figures
from tests.hostile.million import missing
from tests.hostile.service import Service, serve

TOGETHER, KEYED_TOGETHER, MILLION = "together", "together_at_keys", "million"
QUIET_S = 3.0
"""Undisturbed, before each part."""
TOGETHER_S = 20.0
RECOVERY_S = 1.5
SPARE_S = 10.0
"""For an attacker's process to start and to end."""
MILLION_SENDERS = 2
SETTLED_S = 8.0
"""Nothing new for so long: what is not accounted for is lost."""


def run(names: Sequence[str], seconds: float, timed: bool = True, quiet_s: float = QUIET_S) -> list[Figures]:
    """The attacks of those names, each after an undisturbed while; a service that ended is started anew.

    So is one that has taken too much memory: the next part is not to blame for that. The undisturbed figures are of all
    those whiles together. Without `timed`, only what holds on any machine is judged.
    """
    done = []
    for keyed in (False, True):
        if some := [name for name in names if is_keyed(name) == keyed]:
            done += _run(some, keyed, seconds, timed, quiet_s)
    return done


def _run(names: Sequence[str], keyed: bool, seconds: float, timed: bool, quiet_s: float) -> list[Figures]:
    """Those against doors of one kind."""
    heard: list[tuple[str, Heard, bool, int, list[str]]] = []
    quiet: list[Heard] = []
    waiting = list(names)
    ages = max_ages_ms()
    while waiting:
        with serve(keyed=keyed) as service:
            time.sleep(RECOVERY_S)
            while waiting and service.alive:
                quiet.append(watch(service, quiet_s))
                if not service.alive:
                    break
                name = waiting.pop(0)
                during, sent, faults = attack(service, rows(name), TOGETHER_S if TOGETHER in name else seconds)
                heard.append((name, during, service.alive, sent, faults))
                said = judged(figures(name, during, pooled(quiet), ages, service.alive, sent, faults), timed)
                say(said, waits=len(waiting))
                if not MEMORY.holds(said):
                    break
    base = pooled(quiet)
    return [
        judged(figures(name, during, base, ages, alive, sent, faults), timed)
        for name, during, alive, sent, faults in heard
    ]


def judged(of: Figures, timed: bool) -> Figures:
    row = ATTACKS.get(of.part)
    rules = broken(of, timed and (row is None or row.timed), timed and row is not None and row.quiet)
    return dataclasses.replace(of, broken=rules)


def is_keyed(name: str) -> bool:
    """Whether the doors have keys in the part of that name."""
    return name == KEYED_TOGETHER or (name in ATTACKS and ATTACKS[name].keyed)


def rows(name: str) -> list[Attack]:
    """Who attacks in the part of that name: each row as often as an attacker of its own is to run."""
    if TOGETHER in name:
        return [row for row in ATTACKS.values() if row.together and row.keyed == is_keyed(name)]
    return [ATTACKS[name]] * ATTACKS[name].copies


def attack(service: Service, attackers: Sequence[Attack], seconds: float) -> tuple[Heard, int, list[str]]:
    """What was heard while they went on, all at once; what they sent and what they found."""
    command = [sys.executable, "-m", "tests.hostile.attacks"]
    where = [service.inputs, service.decisions_at, str(service.pid), str(seconds), *service.keys]
    running = [
        subprocess.Popen([*command, row.name, *where], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for row in attackers
    ]
    sent, faults = 0, []
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        during = watch(service, seconds, running)
        for process in running:
            said = process.communicate()[0].decode().strip()
            if process.returncode == 0:
                result = json.loads(said.splitlines()[-1])
                sent += result["sent"]
                faults += result["faults"]
            else:
                faults.append(f"an attacker ended with exit code {process.returncode}")
    finally:
        _end(running)
    time.sleep(RECOVERY_S)
    if service.killed_for_memory:
        faults.append("killed for its memory")
    elif not service.alive:
        words = " ".join(service.log_lines()[-12:])
        faults.append(f"exit code {service.process.poll()}: {words:.1500}")
    return during, sent, faults


def watch(
    service: Service, seconds: float, until: Sequence[subprocess.Popen[bytes]] = (), limit_s: float = SPARE_S
) -> Heard:
    """What is heard from now for `seconds`, and until the processes `until` have ended; and the status after it.

    They are killed where they need more than `limit_s` beyond that, or where the service has ended.
    """
    begin_ns = time.monotonic_ns()
    lines = len(service.log_lines())
    before = service.statuses[-1] if service.statuses else {"lost": 0, "repeated": 0}
    time.sleep(seconds)
    deadline = time.monotonic() + limit_s
    while any(process.poll() is None for process in until) and service.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    end_ns = time.monotonic_ns()
    status = service.wait_for_status(end_ns + int(1e9), 5.0)  # one that began after the end
    after = status or before
    return Heard(
        seconds=(end_ns - begin_ns) / 1e9,
        aftermath=[one for one in service.decisions if end_ns <= one["heard_ns"]],
        decisions=[one for one in service.decisions if begin_ns <= one["heard_ns"] < end_ns],
        frames=sum(begin_ns <= at_ns < end_ns for at_ns in service.frames_ns),
        samples=[one for one in service.samples if begin_ns <= one.at_ns < end_ns],
        log=service.log_lines()[lines:],
        status=status,
        lost=after["lost"] - before["lost"],
        repeated=after["repeated"] - before["repeated"],
    )


def pooled(parts: Sequence[Heard]) -> Heard:
    """Several undisturbed whiles as one; memory and CPU of the first, before anything was done to the service."""
    return Heard(
        seconds=sum(one.seconds for one in parts),
        decisions=[decision for one in parts for decision in one.decisions],
        samples=parts[0].samples,
    )


def mutations(count: int, quiet_s: float = QUIET_S) -> Figures:
    """Mutated messages without a limit on rates, so that every one is looked at; judged on all but time.

    Their senders wait where they are not taken. What was sent must be accounted for to the last message, and so must
    every connection that was ended for its message.
    """
    with serve("rate_limit = 0") as service:
        time.sleep(RECOVERY_S)
        quiet = watch(service, quiet_s)
        each = count // MILLION_SENDERS
        command = [sys.executable, "-m", "tests.hostile.million", service.inputs, str(each)]
        running = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE) for seed in range(MILLION_SENDERS)]
        faults: list[str] = []
        try:
            during = watch(service, 0.0, running, limit_s=3600)
            said = [process.communicate(timeout=SPARE_S)[0] for process in running if process.poll() == 0]
        finally:
            _end(running)
        if service.killed_for_memory:
            faults.append("killed for its memory")
        if len(said) < len(running):
            faults.append("a sender of mutations did not come to its end")
        elif service.alive:
            breaks = sum(json.loads(one)["ended"] for one in said)
            status, left = _settled(service, each * MILLION_SENDERS + service.stop_honest(), breaks)
            during = dataclasses.replace(during, status=status)
            faults += left
        one = judged(
            figures(MILLION, during, quiet, max_ages_ms(), service.alive, each * MILLION_SENDERS, faults), timed=False
        )
        say(one)
        return one


def _settled(service: Service, sent: int, breaks: int) -> tuple[Mapping[str, Any], list[str]]:
    """The status in which all is accounted for, or one after which none told more for SETTLED_S; and what it lacks."""
    newest = service.statuses[-1]
    while left := missing(newest["status"], sent, breaks):
        patience = time.monotonic() + SETTLED_S
        while missing(newest["status"], sent, breaks) == left and time.monotonic() < patience:
            newest = service.wait_for_status(newest["heard_ns"], 2.0) or newest
        if missing(newest["status"], sent, breaks) == left:
            break
    return newest, left


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def max_ages_ms() -> dict[str, float]:
    manifest = open_bundle(bundle_path("shipped:vehicle"), allow_unsigned=True).manifest
    return {name: spec.max_age_ms for name, spec in manifest.streams.items()}


def say(one: Figures, waits: int = 0) -> None:
    """One line as it goes on."""
    verdict = "; ".join(one.broken) or "holds"
    print(
        f"{one.part:26} {one.decisions_hz:5.1f}/s  p50 {one.p50:6.1f}  p99 {one.p99:7.1f} ms"
        f" (undisturbed {one.undisturbed_p99:.1f})  {one.peak_mb:5.0f} MiB  {one.cores:4.2f} cores  {verdict}"
        + (f"  [{waits} to go]" if waits else ""),
        flush=True,
    )
