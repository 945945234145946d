"""The same work by Holoscan and Triton, in one run with the runtime and the user's loop, before the same subscriber."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks.live import Heard
from benchmarks.results import Machine, write_results
from benchmarks.variants import METHOD, SAME, STAGED, USER, Rig, Run, figures_of, measure, plot, table
from benchmarks.workload import DEFAULT_PICTURES, size_of
from edge_runtime.errors import UserError

ROOT = Path(__file__).parents[2]
PEERS = {
    "Holoscan": ("holoscan_loop", ("holoscan-cu12==4.6.0", "nvidia-cuda-runtime-cu12")),
    "Triton": ("triton_loop", ("nvidia-pytriton==0.7.0", "opencv-python-headless<4.13")),
}
"""Name to module and packages."""
OURS = ("click", "cryptography", "mcap", "msgspec", "onnx", "onnxruntime", "opencv-python-headless", "pyzmq", "rich")
MORE = ("sentencepiece", "simplejpeg", "zstandard")
"""What the workload and the user's work need; the project itself is found by its path."""
VERSIONS = (
    "from importlib.metadata import distributions as d; "
    "print({x.name: x.version for x in d() if x.name.startswith(('holoscan', 'nvidia-pytriton', 'onnxruntime'))})"
)


@click.command()
@click.option("--bundle", default="shipped:vehicle", show_default=True)
@click.option("--pictures", multiple=True, default=(DEFAULT_PICTURES,), show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(3), help="Per variant and round.")
@click.option("--peer", "chosen", multiple=True, type=click.Choice([*PEERS]), default=[*PEERS], show_default=True)
@click.option("--python", default="/usr/bin/python3.11", show_default=True, help="Makes the peers' environments.")
@click.option(
    "--environments",
    type=click.Path(path_type=Path),
    default=Path("build/peers"),
    show_default=True,
    help="Kept there.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/peers"), show_default=True)
def peers(
    bundle: str,
    pictures: tuple[str, ...],
    rounds: int,
    seconds: float,
    chosen: tuple[str, ...],
    python: str,
    environments: Path,
    out: Path,
) -> None:
    """Holoscan (Python operators) and Triton (PyTriton) beside the runtime; x86-64 and Python 3.11, downloads them."""
    for size in pictures:
        size_of(size)
    interpreters = {name: _environment(environments / name.lower(), python, PEERS[name][1]) for name in chosen}
    versions = {
        name: subprocess.run([path, "-c", VERSIONS], check=True, capture_output=True, text=True).stdout.strip()
        for name, path in interpreters.items()
    }
    machine = Machine()
    with Rig(bundle) as rig:
        variants: dict[str, Run] = {USER: rig.user, SAME: rig.same, STAGED: rig.staged}
        for name, path in interpreters.items():
            variants[name] = _peer(rig, path, PEERS[name][0])
        measured = measure(variants, pictures, rounds, seconds)
    for size, found in measured.items():
        Console(width=120).print(table(size, found))
    for name, installed in versions.items():
        Console().print(f"{name}: {installed}")
    Console().print(machine.sentence())
    figures = {size: figures_of(found) for size, found in measured.items()}
    facts = {"method": METHOD, "versions": versions, "pictures": figures}
    settings = {"bundle": bundle, "rounds": rounds, "seconds": seconds}
    write_results(out, "peers", facts, plot(measured), machine, settings)


def _environment(folder: Path, python: str, packages: tuple[str, ...]) -> str:
    """An interpreter that has `packages` and what the workload needs; made at the first call. Raises UserError."""
    interpreter = folder.absolute() / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making {folder} (once; downloads some hundred MB)", file=sys.stderr, flush=True)
        try:
            subprocess.run([python, "-m", "venv", str(folder)], check=True)
            subprocess.run([str(interpreter), "-m", "pip", "install", "-q", *OURS, *MORE, *packages], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"peers: {folder} cannot be made ({error}); see above") from None
        (folder / "ready").touch()
    return str(interpreter)


def _peer(rig: Rig, interpreter: str, module: str) -> Run:
    # Holoscan's threads have large stacks; its libraries look for CUDA's beside them.
    libraries = ":".join(
        str(path) for path in Path(interpreter).parents[1].glob("lib/python*/site-packages/nvidia/*/lib")
    )
    command = ("sh", "-c", 'ulimit -s 32768; exec "$@"', "sh", interpreter, "-m", f"benchmarks.peers.{module}")

    def run(size: str, frames: int) -> Heard:
        return rig.loop(command, size, frames, PYTHONPATH=str(ROOT), LD_LIBRARY_PATH=libraries)

    return run
