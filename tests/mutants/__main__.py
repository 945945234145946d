"""Do the tests notice? `make mutants MODULES="health gate/limits"`; all modules of modules.toml without MODULES.

Each module is changed in small ways (see mutate.py), in a copy of the source tree, and its tests run on every change.
The results go to build/mutants/: one JSON file per module, kept from run to run, and report.md over all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.mutate import Mutant, mutants

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("modules.toml")
OUT = ROOT / "build" / "mutants"
COPIED = ("edge_runtime", "build_engines", "calibration", "benchmarks", "tests", "systemd", "docs")
FILES = ("pyproject.toml", "README.md", "Makefile", "constraints-jetpack.txt")
OUTCOMES = ("killed", "timeout", "survived")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="parts of the paths in modules.toml; all of them without")
    parser.add_argument(
        "--sample", type=int, default=0, help="at most so many mutants a module, chosen by a fixed seed"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    table: dict[str, list[str]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    chosen = [name for name in table if not given.modules or any(part in name for part in given.modules)]
    if not chosen:
        print(f"no module in {TABLE.name} is named like {' '.join(given.modules)}; there are {', '.join(table)}")
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        result = judge(ROOT, name, table[name], given.sample, given.jobs)
        (OUT / f"{name.replace('/', '.')}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (OUT / "report.md").write_text(report(OUT), encoding="utf-8")
    print(f"\n{report(OUT, survivors=False)}\nsurvivors: {OUT / 'report.md'}")
    return 0


def judge(root: Path, module: str, tests: list[str], sample: int = 0, jobs: int = 1) -> dict[str, object]:
    """What became of the mutants of one module of the project at `root`.

    Raises SystemExit where its tests do not pass on the module as it is.
    """
    made = mutants((root / module).read_text(encoding="utf-8"))
    chosen = random.Random(0).sample(made, sample) if 0 < sample < len(made) else made
    chosen.sort(key=lambda one: one.line)
    with copies(root, jobs) as folders:
        folder = folders.get()
        start = time.monotonic()
        if (outcome := run_tests(folder, tests, 600)) != "survived":
            raise SystemExit(f"{module}: its tests do not pass as it is ({outcome}): {' '.join(tests)}")
        limit_s = 20 + 5 * (time.monotonic() - start)
        folders.put(folder)
        print(f"{module}: {len(chosen)} of {len(made)} mutants, {limit_s:.0f} s each at most", flush=True)

        def one(mutant: Mutant) -> str:
            folder = folders.get()
            target = folder / module
            original = target.read_bytes()
            try:
                target.write_text(mutant.source, encoding="utf-8")
                return run_tests(folder, tests, limit_s)
            finally:
                target.write_bytes(original)
                folders.put(folder)

        rows, counts = [], dict.fromkeys(OUTCOMES, 0)
        with ThreadPoolExecutor(jobs) as pool:
            for mutant, outcome in zip(chosen, pool.map(one, chosen), strict=True):
                counts[outcome] += 1
                rows.append({"line": mutant.line, "change": mutant.change, "outcome": outcome})
                if outcome == "survived":
                    print(f"  survived  {module}:{mutant.line}  {mutant.change}", flush=True)
                elif len(rows) % 20 == 0:
                    print(f"  {len(rows)} of {len(chosen)}", flush=True)
    return {"module": module, "made": len(made), **counts, "mutants": rows}


@contextmanager
def copies(root: Path, jobs: int) -> Iterator[SimpleQueue[Path]]:
    """Copies of the source tree, one for each job."""
    free: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        for number in range(jobs):
            folder = Path(name) / str(number)
            folder.mkdir()
            for part in COPIED:
                if (root / part).is_dir():
                    shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            for part in FILES:
                if (root / part).is_file():
                    shutil.copy(root / part, folder / part)
            free.put(folder)
        yield free


def run_tests(folder: Path, tests: list[str], limit_s: float) -> str:
    """ "killed" if one of `tests` fails, "timeout" if they do not end in time, "survived" if all pass."""
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "--no-header",
        "--tb=no",
        "--hypothesis-seed=0",
    ]
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "pytest", *options, *tests],
        cwd=folder,
        # The copy's modules, not those of an editable install; and no byte code of the module as it was.
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return "survived" if process.wait(limit_s) == 0 else "killed"
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        # Children that the tests started go too.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


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
