"""Does it go on? `make chaos`; `make chaos MINUTES=3 SEED=7` for less, and for the same again.

A service under a real systemd, in a machine of its own, with honest camera, sensors and sentences, is met by the
faults of faults.py at random, one or several at once, the whole time. What must hold is in judge.py; figures go to
build/chaos/. Exit code 1 if a promise was broken. Needs root and systemd (see
tests/service); the wall clock that is stepped is the service's own.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.drive import settle, suffer
from tests.chaos.faults import FAULTS, Chaos, burst
from tests.chaos.judge import Burst, judge
from tests.chaos.observer import Observer
from tests.chaos.report import write
from tests.chaos.site import machine_site, wait_until
from tests.hostile.drive import max_ages_ms
from tests.service.machine import why_not

OUT = Path(__file__).parents[2] / "build" / "chaos"
MINUTES = 18.0
MOST = 3
"""Faults at once."""
START_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, default=None, help="of the choice of faults")
    parser.add_argument("--only", nargs="*", default=[], help=f"of {', '.join(FAULTS)}; each alone, in turn")
    given = parser.parse_args()
    if reason := why_not():
        print(f"no chaos here: {reason}")
        return 2
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {
        "seed": seed,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
        "load before": "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
    }
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    bursts: list[Burst] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as name, machine_site(Path(name)) as site:
        observer = Observer(site, Path(name))
        try:
            chaos = Chaos(site, observer, random.Random(seed))
            site.start()
            if not wait_until(lambda: observer.healthy_ns(0) is not None and observer.good(), START_S):
                print(f"the service is not healthy after {START_S:.0f} s:\n{site.log()}")
                return 1
            end = time.monotonic() + 60 * given.minutes
            while time.monotonic() < end:
                faults = burst(chaos.chance, site, MOST)
                if given.only:
                    faults = [FAULTS[given.only[len(bursts) % len(given.only)]]]
                bursts.append(suffer(chaos, faults, lambda line: print(line, flush=True)))
            settle(chaos)
            log = site.log()
        finally:
            observer.close()
    (OUT / "service.log").write_text(log, encoding="utf-8")
    verdict = judge(observer.seen, bursts, max_ages_ms(), log)
    machine |= {"load after": "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg())}
    write(OUT, verdict, bursts, machine)
    print((OUT / "chaos.md").read_text(encoding="utf-8"))
    print(f"written to {OUT}")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
