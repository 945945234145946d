"""`python -m tests.installs 1000`: interrupt installs, switches and rollbacks that many times, and boot after each.

Half are stopped after each of their steps in turn, and lose what was not synced; half are killed by SIGKILL at random
times. Prints what was tried and what was lost; the exit code is 1 if anything was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from edge_runtime.slots import Slots
from tests.installs.cases import CASES, VERSIONS, World, boots, cut_short, make_world, steps


class Checker:
    """A process of its own that boots slots: this one, which forks, stays without an inference library's threads."""

    def __init__(self, world: World) -> None:
        command = [sys.executable, "-m", "tests.installs", "--boot", str(world.folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def boots(self, folder: Path) -> str:
        """A version, or what is wrong."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def check(world: World) -> None:
    """The checker's end."""
    for line in sys.stdin:
        try:
            answer = boots(world, Path(line.strip()))
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(answer, flush=True)


def at_steps(world: World, checker: Checker, count: int, chance: random.Random, scratch: Path) -> Counter[str]:
    """Outcomes of `count` boots after steps of all cases in turn."""
    outcomes: Counter[str] = Counter()
    points = [(case, stop) for case in CASES for stop in range(steps(world, case, scratch))]
    for case, stop in itertools.cycle(points):
        for folder in cut_short(world, case, stop, scratch, chance):
            if outcomes.total() < count:
                version = checker.boots(folder)
                outcomes[version if version in case.versions else f"LOST {case.name} at {stop}: {version}"] += 1
            shutil.rmtree(folder)
        if outcomes.total() >= count:
            return outcomes
    return outcomes


def by_signals(world: World, checker: Checker, count: int, chance: random.Random, scratch: Path) -> Counter[str]:
    """Outcomes of `count` boots after a process was killed while it did one of the cases."""
    outcomes: Counter[str] = Counter()
    lasts: dict[str, float] = {}
    while outcomes.total() < count:
        case = chance.choice(CASES[:3] * 3 + CASES[3:])
        folder = scratch / "slots"
        shutil.copytree(world.slots(case.begins), folder)
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                case.do(Slots(folder), world)
                os._exit(0)
            except BaseException as error:
                print(f"{case.name}: {error}", file=sys.stderr)
                os._exit(1)
        if case.name in lasts:
            time.sleep(chance.uniform(0, lasts[case.name]))
            os.kill(child, signal.SIGKILL)
        code = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(code):
            version = checker.boots(folder)
            outcomes[version if version in case.versions else f"LOST {case.name}: {version}"] += 1
        elif os.WEXITSTATUS(code):
            outcomes[f"LOST {case.name}: it failed"] += 1
        else:  # it came to its end before the signal, as the first one does
            lasts.setdefault(case.name, time.monotonic() - start)
        shutil.rmtree(folder)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--only", choices=["steps", "signals"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--boot", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.boot is not None:
        check(World(arguments.boot, arguments.boot / "plant.pem"))
        return 0
    chance = random.Random(arguments.seed)
    half = arguments.count // 2 if arguments.only is None else arguments.count
    with tempfile.TemporaryDirectory() as name:
        Path(name, "world").mkdir()
        world = make_world(Path(name, "world"))
        scratch = Path(name, "scratch")
        scratch.mkdir()
        checker = Checker(world)
        start = time.monotonic()
        outcomes: dict[str, dict[str, int]] = {}
        if arguments.only != "signals":
            outcomes["stopped after a step"] = dict(at_steps(world, checker, half, chance, scratch))
        if arguments.only != "steps":
            count = half if arguments.only else arguments.count - half
            outcomes["killed by a signal"] = dict(by_signals(world, checker, count, chance, scratch))
        checker.close()
    flat = [(what, count) for part in outcomes.values() for what, count in part.items()]
    report = {
        "tried": sum(count for _, count in flat),
        "lost": sum(count for what, count in flat if not what.startswith(VERSIONS)),
        "seconds": round(time.monotonic() - start, 1),
        "outcomes": outcomes,
    }
    print(json.dumps(report, indent=None if arguments.json else 2))
    return 1 if report["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
