"""Do the tests notice? `make mutants MODULES="health gate/limits"`; all modules of modules.toml without MODULES.

Each module is changed in small ways (see mutate.py), in a copy of the source tree, and its tests run on every change.
The results go to build/mutants/: one JSON file per module, kept from run to run, and report.md over all of them.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.mutants.mutate import Mutant, mutants

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("modules.toml")
SERVER = Path(__file__).with_name("server.py")
OUT = ROOT / "build" / "mutants"
COPIED = ("edge_runtime", "build_engines", "calibration", "benchmarks", "tests", "systemd", "docs")
FILES = ("pyproject.toml", "README.md", "Makefile", "constraints-jetpack.txt")
BRIEF = {"TESTS_WAIT_S": "5", "TESTS_EXAMPLES": "30"}
"""What a change keeps from happening is not waited for as long as on a busy machine, and chance has fewer tries."""
OUTCOMES = ("killed", "timeout", "survived")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="parts of the paths in modules.toml; all of them without")
    parser.add_argument(
        "--sample", type=int, default=0, help="at most so many mutants a module, chosen by a fixed seed"
    )
    parser.add_argument(
        "--survivors", action="store_true", help="only those that survived the last run, where the module is the same"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    table: dict[str, list[str]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    chosen = [name for name in table if not given.modules or any(part in name for part in given.modules)]
    if not chosen:
        print(f"no module in {TABLE.name} is named like {' '.join(given.modules)}; there are {', '.join(table)}")
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in chosen:
        kept = OUT / f"{name.replace('/', '.')}.json"
        before = json.loads(kept.read_text(encoding="utf-8")) if given.survivors and kept.is_file() else None
        try:
            result = judge(ROOT, name, table[name], given.sample, given.jobs, before)
        except FailingTests as error:
            print(error, flush=True)
            failed.append(name)
            continue
        kept.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (OUT / "report.md").write_text(report(OUT), encoding="utf-8")
    print(f"\n{report(OUT, survivors=False)}\nsurvivors: {OUT / 'report.md'}")
    return 1 if failed else 0


class FailingTests(Exception):
    """A module's tests do not pass on it as it is."""


def judge(
    root: Path, module: str, tests: list[str], sample: int = 0, jobs: int = 1, before: dict[str, Any] | None = None
) -> dict[str, object]:
    """What became of the mutants of one module of the project at `root`.

    `before`: what this gave earlier. Of mutants of the same module those that were noticed then are not tried again.
    Raises FailingTests where its tests do not pass on the module as it is.
    """
    made = mutants((root / module).read_text(encoding="utf-8"))
    chosen = random.Random(0).sample(made, sample) if 0 < sample < len(made) else made
    noticed: list[dict[str, Any]] = []
    if before is not None and {(row["line"], row["change"]) for row in before["mutants"]} <= {
        (one.line, one.change) for one in made
    }:
        alive = {(row["line"], row["change"]) for row in before["mutants"] if row["outcome"] == "survived"}
        noticed = [row for row in before["mutants"] if (row["line"], row["change"]) not in alive]
        tried = {(row["line"], row["change"]) for row in before["mutants"]}
        chosen = [one for one in chosen if (one.line, one.change) in alive or (one.line, one.change) not in tried]
    chosen.sort(key=lambda one: one.line)
    with servers(root, module, jobs) as free:
        waiting = [free.get() for _ in range(jobs)]
        for server in waiting:
            start = time.monotonic()
            found = server.warm(tests)
            if found["outcome"] != "survived":
                raise FailingTests(
                    f"{module}: its tests do not pass as it is ({found['outcome']}, {found['by']}): {' '.join(tests)}"
                )
            limit_s = 20 + 3 * (time.monotonic() - start)
            free.put(server)
        print(f"{module}: {len(chosen)} of {len(made)} mutants, {limit_s:.0f} s each at most", flush=True)
        killers: list[str] = []

        def one(mutant: Mutant) -> dict[str, Any]:
            server = free.get()
            try:
                found = server.judge(mutant.source, tests, list(killers), limit_s)
            finally:
                free.put(server)
            if found["by"] is not None:  # the next mutant stands a line below: what killed this one goes first
                if found["by"] in killers:
                    killers.remove(found["by"])
                killers.insert(0, found["by"])
            return found

        rows, counts = [], dict.fromkeys(OUTCOMES, 0)
        with ThreadPoolExecutor(jobs) as pool:
            for mutant, found in zip(chosen, pool.map(one, chosen), strict=True):
                counts[found["outcome"]] += 1
                rows.append(
                    {"line": mutant.line, "change": mutant.change, "outcome": found["outcome"], "by": found["by"]}
                )
                if found["outcome"] == "survived":
                    print(f"  survived  {module}:{mutant.line}  {mutant.change}", flush=True)
                elif len(rows) % 20 == 0:
                    print(f"  {len(rows)} of {len(chosen)}", flush=True)
    for row in noticed:
        counts[row["outcome"]] += 1
    return {"module": module, "made": len(made), **counts, "mutants": noticed + rows}


@contextmanager
def servers(root: Path, module: str, jobs: int) -> Iterator[SimpleQueue[Server]]:
    """As many servers as jobs, each with a copy of the source tree."""
    free: SimpleQueue[Server] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name, ExitStack() as stack:
        for number in range(jobs):
            folder = Path(name) / str(number)
            folder.mkdir()
            for part in COPIED:
                if (root / part).is_dir():
                    shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            for part in FILES:
                if (root / part).is_file():
                    shutil.copy(root / part, folder / part)
            free.put(stack.enter_context(Server(folder, module)))
        yield free


class Server:
    """Runs tests on one module and its changes, in a copy of the source tree, by two processes: see server.py."""

    def __init__(self, folder: Path, module: str) -> None:
        self._folder = folder
        self._target = folder / module
        self._name = module.removesuffix(".py").replace("/", ".")
        self._original = self._target.read_bytes()
        self._libraries: list[str] = []
        self._anew = self._start()
        self._collected: subprocess.Popen[str] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._anew, self._collected):
            if process is not None:
                process.communicate()  # it ends when nothing more is asked

    def warm(self, tests: list[str]) -> dict[str, Any]:
        """Run `tests` on the module as it is, and keep loaded what that needs. The byte code of all modules is kept,
        but of the one that changes."""
        found = self._run(tests, [], 600.0, write_bytecode=True)
        for stale in self._target.parent.glob(f"__pycache__/{self._target.stem}.*"):
            stale.unlink()
        self._libraries = found["libraries"]
        if found["outcome"] == "survived":
            self._collected = self._start(self._name, *tests)
            source = ast.unparse(ast.parse(self._original)) + "\n"
            as_it_is = self._ask(self._collected, source=source, first=[], limit_s=600.0)
            if as_it_is is None or as_it_is["outcome"] != "survived":  # not to be forked when collected
                self._collected.kill()
                self._collected.communicate()
                self._collected = None
        return found

    def judge(self, source: str, tests: list[str], first: list[str], limit_s: float) -> dict[str, Any]:
        """With the module changed to `source`, `outcome`: "killed" if one of `tests` fails, and `by` which; "timeout";
        "survived" if all pass."""
        try:
            self._target.write_text(source, encoding="utf-8")
            if self._collected is not None:
                found = self._ask(self._collected, source=source, first=first, limit_s=limit_s)
                if found is not None and (
                    found["outcome"] in ("killed", "timeout") or (found["outcome"] == "survived" and not found["ran"])
                ):
                    return found
            return self._run(tests, first, limit_s)
        finally:
            self._target.write_bytes(self._original)

    def _run(self, tests: list[str], first: list[str], limit_s: float, **more: object) -> dict[str, Any]:
        found = self._ask(self._anew, tests=tests, first=first, limit_s=limit_s, load=self._libraries, **more)
        assert found is not None, "the process that runs the tests has ended"
        self._libraries = []  # they stay loaded
        return found

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(SERVER), *arguments],
            cwd=self._folder,
            # The copy's modules, not those of an editable install; and no byte code of the module as it was.
            env={**os.environ, "PYTHONPATH": str(self._folder), "PYTHONDONTWRITEBYTECODE": "1", **BRIEF},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _ask(self, process: subprocess.Popen[str], **request: object) -> dict[str, Any] | None:
        """The answer; None where the process has ended."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = process.stdout.readline()
        return json.loads(answer) if answer else None


def report(folder: Path, survivors: bool = True) -> str:
    """A table over the modules judged so far, and the survivors."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    lines = ["| module | mutants | killed | timed out | survived | share |", "| --- | --- | --- | --- | --- | --- |"]
    for one in results:
        tried = sum(one[outcome] for outcome in OUTCOMES)
        share = f"{one['survived'] / tried:.0%}" if tried else "-"
        counts = " | ".join(str(one[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {one['module']} | {tried} of {one['made']} | {counts} | {share} |")
    if survivors:
        for one in results:
            alive = [row for row in one["mutants"] if row["outcome"] == "survived"]
            if alive:
                lines += ["", f"## {one['module']}", "", *(f"- line {row['line']}: `{row['change']}`" for row in alive)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
