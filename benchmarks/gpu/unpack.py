"""Join the pieces of a second part, if all are there, into a folder: `python unpack.py PIECES SITE`."""

from __future__ import annotations

import io
import lzma
import sys
import tarfile
from pathlib import Path


def main(pieces: Path, site: Path) -> None:
    """Unpack what `kit.pack_tensorrt_rtx` packed; without pieces nothing happens."""
    found = sorted(pieces.glob("*.tar.xz.[0-9][0-9][0-9]"))
    if not found:
        return
    if [path.suffix for path in found] != [f".{number:03d}" for number in range(len(found))]:
        print(f"{pieces}: a piece is missing ({', '.join(path.name for path in found)}); left out")
        return
    data = b"".join(path.read_bytes() for path in found)
    with lzma.open(io.BytesIO(data)) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.extractall(site, filter="data")
    # The package of the plain name only imports the bindings.
    shim = site / "tensorrt_rtx" / "__init__.py"
    if not shim.exists():
        shim.parent.mkdir(exist_ok=True)
        shim.write_text("from tensorrt_rtx_bindings import *\nfrom tensorrt_rtx_bindings import __version__\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
