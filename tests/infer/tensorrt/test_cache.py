from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.infer.tensorrt import cache as cache_module
from edge_runtime.infer.tensorrt.cache import EngineCache, EngineKey, default_folder

KEY = EngineKey(
    flavour="tensorrt",
    version="10.3.0",
    gpu="Orin",
    compute="8.7",
    driver=12060,
    onnx_sha256="ab" * 32,
    shapes={"x": (1, 2)},
    flags={"workspace_bytes": 1},
)
OTHERS = {
    "flavour": "tensorrt_rtx",
    "version": "10.3.1",
    "gpu": "Orin (nvgpu)",
    "compute": "8.6",
    "driver": 12080,
    "onnx_sha256": "ac" * 32,
    "shapes": {"x": (2, 1)},
    "flags": {"workspace_bytes": 2},
}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_what_is_stored_comes_back_in_another_process_s_eyes(cache: EngineCache) -> None:
    cache.store(KEY, "engine", b"plan", seconds=1.25)
    cache.store(KEY, "kernels", b"kernels")
    again = EngineCache(cache.folder)
    assert (again.load(KEY, "engine"), again.load(KEY, "kernels"), again.load(KEY, "timings")) == (
        b"plan",
        b"kernels",
        None,
    )


@given(st.binary(max_size=200))
def test_any_bytes_come_back(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cache = EngineCache(Path(folder) / "c")
        cache.store(KEY, "engine", b"before")
        cache.store(KEY, "engine", data)
        assert cache.load(KEY, "engine") == data


@pytest.mark.parametrize("field", OTHERS)
def test_every_part_of_the_key_matters(cache: EngineCache, field: str) -> None:
    assert set(OTHERS) == set(EngineKey.__struct_fields__)
    cache.store(KEY, "engine", b"plan")
    other = msgspec.structs.replace(KEY, **{field: OTHERS[field]})
    assert other.digest != KEY.digest
    assert cache.load(other, "engine") is None


def test_graphs_share_timings_but_not_across_devices(cache: EngineCache) -> None:
    cache.store(KEY.any_graph(), "timings", b"t")
    assert cache.load(msgspec.structs.replace(KEY, onnx_sha256="0").any_graph(), "timings") == b"t"
    assert cache.load(msgspec.structs.replace(KEY, gpu="other").any_graph(), "timings") is None


def engine_file(cache: EngineCache) -> Path:
    (found,) = cache.folder.glob("*.engine")
    return found


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cache = EngineCache(Path(folder))
        Path(folder).chmod(0o700)
        cache.store(KEY, "engine", b"some plan")
        path = engine_file(cache)
        raw = bytearray(path.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(raw)
        assert cache.load(KEY, "engine") is None


@pytest.mark.parametrize("damage", ["cut", "empty", "no sidecar", "bad sidecar", "other key", "link", "others write"])
def test_damage_is_as_good_as_not_there(
    cache: EngineCache, damage: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cache.store(KEY, "engine", b"some plan")
    path = engine_file(cache)
    sidecar = path.with_name(path.name + ".json")
    if damage == "cut":
        path.write_bytes(b"some")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no sidecar":
        sidecar.unlink()
    elif damage == "bad sidecar":
        sidecar.write_bytes(b"\xff{")
    elif damage == "other key":
        sidecar.write_text(sidecar.read_text().replace("12060", "12061"))
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.chmod(0o666)
    assert cache.load(KEY, "engine") is None
    assert damage == "no sidecar" or "made anew" in caplog.text
    cache.store(KEY, "engine", b"new plan")
    assert cache.load(KEY, "engine") == b"new plan"


def test_people_can_read_what_is_kept(cache: EngineCache) -> None:
    cache.store(KEY, "engine", b"some plan", seconds=12.5)
    path = engine_file(cache)
    told = json.loads(path.with_name(path.name + ".json").read_text())
    assert told["key"] == {**msgspec.to_builtins(KEY), "shapes": {"x": [1, 2]}}
    assert (told["bytes"], told["seconds"]) == (9, 12.5)


def test_only_this_user_can_write(cache: EngineCache) -> None:
    cache.store(KEY, "engine", b"plan")
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.folder.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match="others may write there.*chmod 700"):
        EngineCache(folder)


def test_a_folder_above_in_which_others_may_put_another_is_refused_in_one_line(tmp_path: Path) -> None:
    above = tmp_path / "shared"
    EngineCache(above / "engines")
    above.chmod(0o777)
    with pytest.raises(ConfigError, match=f"others may write in {above} above it; chmod go-w {above}") as caught:
        EngineCache(above / "engines")
    assert "\n" not in str(caught.value)
    above.chmod(0o1777)
    EngineCache(above / "engines")


def test_folders_made_on_the_way_are_this_user_s_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        EngineCache(tmp_path / "a" / "b" / "engines")
    finally:
        os.umask(before)
    made = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "engines"]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in made] == [0o700] * 3


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="engine.cache .*; name another folder"):
        EngineCache(tmp_path / "file" / "below")


def test_a_store_cut_short_leaves_the_old_one(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(KEY, "engine", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cache.store(KEY, "engine", b"new")
    monkeypatch.undo()
    assert cache.load(KEY, "engine") == b"old"
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".engine", ".json"]


def test_a_full_disk_costs_time_only(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cache.store(KEY, "engine", b"plan")
    assert "cannot keep" in caplog.text and "No space left" in caplog.text


def test_what_was_not_used_for_longest_goes_first(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_BYTES", 250)
    keys = [msgspec.structs.replace(KEY, onnx_sha256=str(index)) for index in range(3)]
    for index, key in enumerate(keys[:2]):
        cache.store(key, "engine", bytes(100))
        path = cache.folder / f"{key.digest[:32]}.engine"
        os.utime(path, (1000 + index, 1000 + index))
    assert cache.load(keys[0], "engine") is not None  # used now: younger than the other
    cache.store(keys[2], "engine", bytes(100))
    assert [cache.load(key, "engine") is not None for key in keys] == [True, False, True]
    assert len(list(cache.folder.iterdir())) == 4


def test_discarding_is_harmless_when_there_is_nothing(cache: EngineCache) -> None:
    cache.store(KEY, "kernels", b"k")
    cache.discard(KEY, "kernels")
    cache.discard(KEY, "kernels")
    assert cache.load(KEY, "kernels") is None
    assert not list(cache.folder.iterdir())


def test_the_service_s_folder_comes_before_the_user_s() -> None:
    assert default_folder({"CACHE_DIRECTORY": "/var/cache/a:/var/cache/b", "XDG_CACHE_HOME": "/x"}) == Path(
        "/var/cache/a/engines"
    )
    assert default_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/edge-runtime/engines")
    assert default_folder({}) == Path.home() / ".cache/edge-runtime/engines"
