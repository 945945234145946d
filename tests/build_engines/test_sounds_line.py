"""The commands of docs/audio.md, as they stand there: made sounds, training, gate, bundle, a live run, its replay."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from build_engines.data.sounds import SOUNDS, make
from build_engines.data.sounds import main as make_sounds
from edge_runtime.bundle import open_bundle
from edge_runtime.recording.reader import Recording
from edge_runtime.wav import read_wav
from edge_runtime.wire import DecisionMessage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the documentation's commands leave."""
    folder = tmp_path_factory.mktemp("docs")
    block = re.search(r"```bash\n(.*?)```", (ROOT / "docs" / "audio.md").read_text(), re.DOTALL)
    assert block is not None
    (folder / "build_engines").symlink_to(ROOT / "build_engines")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        ["bash", "-e"],
        input=block[1],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert re.search(r"\d+ identical, 0 changed", run.stdout), run.stdout
    return folder / "build" / "sounds"


def test_the_model_passes_its_gate_and_hears_a_siren_live(followed: Path) -> None:
    bundle = open_bundle(followed / "sounds", [followed / "sounds.pem"])
    assert [stage.name for stage in bundle.manifest.stages] == ["audio", "fusion"]
    assert bundle.manifest.figures["f1_macro"] > 0.9
    spec = bundle.manifest.streams["mic"]
    assert (spec.mean, spec.std) != (-9.0, 4.0), "fitted to the sounds"  # type: ignore[union-attr]
    decided = [event for event in Recording(followed / "ear.mcap").events() if isinstance(event, DecisionMessage)]
    labels = Counter(one.label for one in decided if one.source == "model")
    assert [one.label for one in decided if one.source == "model"][-1] == "siren", labels


def test_sounds_vary_between_rooms_takes_and_seeds_and_come_again_by_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        make(tmp_path / name, "train", 2, seed)
    names = sorted(path.name for path in (tmp_path / "a/train/sounds").iterdir())
    assert len(names) == 2 * 2 * len(SOUNDS)
    heard = {name: read_wav(tmp_path / "a/train/sounds" / name) for name in names}
    assert len({pcm.tobytes() for pcm in heard.values()}) == len(names)
    for name, pcm in heard.items():
        assert len(pcm) == 16000 and pcm.std() > 0
        assert np.array_equal(pcm, read_wav(tmp_path / "again/train/sounds" / name))
        assert not np.array_equal(pcm, read_wav(tmp_path / "b/train/sounds" / name))


def test_no_room_is_in_both_splits(tmp_path: Path) -> None:
    assert make_sounds.main([str(tmp_path), "--rooms", "4"], standalone_mode=False) is None
    rooms = [
        set(re.findall(r'"room": "(.*?)"', (tmp_path / s / "samples.jsonl").read_text())) for s in ("train", "val")
    ]
    assert [len(one) for one in rooms] == [4, 2] and not rooms[0] & rooms[1]
