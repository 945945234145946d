"""Does the rim hold? `make hostile`; `make hostile PARTS="garbage standstill"` for some, `million` and `together` too.

A running service with honest camera, sensors and text beside it is attacked in every way of attacks.py, one after the
other and all together, and gets a million mutated messages. The figures go to build/hostile/; exit code 1 if a rule of
judge.py is broken.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

from tests.hostile.attacks import ATTACKS
from tests.hostile.drive import KEYED_TOGETHER, MILLION, TOGETHER, mutations, run
from tests.hostile.report import table, write
from tests.hostile.service import limiter

OUT = Path(__file__).parents[2] / "build" / "hostile"
ATTACK_S = 7.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="names (or pieces) of attacks.py's table, together, million; else all")
    parser.add_argument("--seconds", type=float, default=ATTACK_S, help="of each attack")
    parser.add_argument("--count", type=int, default=1_000_000, help="mutated messages")
    given = parser.parse_args()
    names = [*ATTACKS, TOGETHER, KEYED_TOGETHER, MILLION]
    chosen = [name for name in names if not given.parts or any(part in name for part in given.parts)]
    if not chosen:
        print(f"no part is named like {' '.join(given.parts)}; there are {', '.join(names)}")
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "load before": "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "memory limit": limiter()[1],
    }
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    start = time.monotonic()
    attacked = [name for name in chosen if name != MILLION]
    parts = run(attacked, given.seconds) if attacked else []
    if MILLION in chosen:
        parts.append(mutations(given.count))
    machine |= {"load after": "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg())}
    machine |= {"took": f"{(time.monotonic() - start) / 60:.1f} min"}
    write(OUT, parts, machine)
    failed = [one.part for one in parts if one.broken]
    print(f"\n{table(parts)}\n{len(parts) - len(failed)} of {len(parts)} parts hold; written to {OUT}")
    return 1 if failed else 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
