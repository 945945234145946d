"""Encoders in files of one's own through the whole line: pictures through ONNX, sentences through TorchScript."""

from __future__ import annotations

import copy
import hashlib
import re
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from build_engines.data.datasets import RECIPE_FILE
from build_engines.model.export import Equality, faithful
from build_engines.model.train import load_trained
from build_engines.quantisation.plan import read_plan
from build_engines.recipe import Recipe, load_recipe
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.pipeline import Pipeline
from tests.build_engines.calling import call
from tests.build_engines.samples_folder import RECIPE, picture, write_samples
from tests.tiny import tokenizer_model

VISION = """
kind = "pretrained"
file = "nets/see.onnx"
output = "hidden"
pixels = { normalisation = "imagenet" }
licence = "MIT"
licence_file = "nets/see.txt"
views = 2
dropout = 0.0
"""
SENTENCES = """
kind = "pretrained"
file = "nets/read.pt"
tokenizer = "nets/read.model"
dropout = 0.0
"""


class See(nn.Module):
    """Twice: of which output the hidden values are, the recipe says."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())
        self.judge = nn.Linear(24, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.layers(image)
        return self.judge(maps.mean((2, 3))).softmax(-1), maps.flatten(1)


class Say(nn.Module):
    """Hidden values of each piece."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(400, 24)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.tanh(self.table(input_ids)) * attention_mask.unsqueeze(-1)


def write_networks(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    torch.onnx.export(
        See().eval(), (torch.zeros(1, 3, 12, 16),), str(folder / "see.onnx"), input_names=["pixels"],
        output_names=["shares", "hidden"], opset_version=17, dynamo=False,
    )  # fmt: skip
    (folder / "see.txt").write_text("See, and let see.")
    examples = torch.ones(1, 8, dtype=torch.int64), torch.ones(1, 8, dtype=torch.int64)
    torch.jit.save(torch.jit.trace(Say().eval(), examples), str(folder / "read.pt"))  # type: ignore[no-untyped-call]
    (folder / "read.model").write_bytes(tokenizer_model())
    (folder / "LICENSE").write_text("Read freely.")


def recipe_text() -> str:
    text = re.sub(r'widths = \[4, 8\]\npool = "grid"\ndropout = 0.0\n', VISION.lstrip(), RECIPE)
    text = re.sub(r"width = 8\ndropout = 0.0\ntoken_dropout = 0.0\n", SENTENCES.lstrip(), text)
    text = text.replace("[tokenizer]\nvocabulary = 300\n", "")
    text = text.replace('stages = ["vision"]\n', 'stages = ["vision"]\nsplit = "train"\n')
    return re.sub(r"epochs = \d+", "epochs = 12", text)


def arguments(folder: Path, *more: object) -> tuple[object, ...]:
    places = ("--data", folder / "data", "--out", folder / "out", "--work", folder / "work")
    return ("run", folder / "ward.toml", *places, *more)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ward")
    write_networks(folder / "nets")
    (folder / "ward.toml").write_text(recipe_text())
    for split, count, seed in (("train", 64, 1), ("val", 40, 2)):
        write_samples(folder / "data", split, count, seed)
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, *arguments(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def bundle(built: Path) -> Bundle:
    return open_bundle(built / "out" / "ward", [built / "out" / "ward.pem"])


def test_what_ships_is_proven_to_be_what_the_files_say(built: Path, bundle: Bundle) -> None:
    equality = msgspec.json.decode(bundle.read("report/equality.json"), type=Equality)
    assert set(equality.pretrained) == {"vision", "text"}
    assert all(0.9999 <= cosine <= 1.0001 for cosine in equality.pretrained.values())
    for name, file in (("vision", "see.onnx"), ("text", "read.pt")):
        sha256 = hashlib.sha256((built / "nets" / file).read_bytes()).hexdigest()
        assert equality.origins[name] == sha256 == bundle.manifest.training[f"{name}_pretrained_sha256"]


def test_the_graph_takes_what_the_device_gives_and_decides(bundle: Bundle) -> None:
    stages = {stage.name: stage for stage in bundle.manifest.stages}
    assert [(item.name, item.dtype, item.shape) for item in stages["vision"].inputs] == [
        ("image", "uint8", (1, 12, 16, 3))
    ]
    assert [item.name for item in stages["text"].inputs] == ["ids", "mask"]
    assert bundle.plan("tensorrt")["vision"] == "int8", "convolutions of the file are quantised as any others"
    rng = np.random.default_rng(5)
    with closing(Pipeline(bundle)) as pipeline:
        ill, well = (
            pipeline.predict({"camera.front": picture(rng, bright), "text": text}).verdict.probabilities["ill"]
            for bright, text in ((True, "cough and fever"), (False, "routine check"))
        )
    assert ill > 0.5 > well


def test_licences_and_credit_travel_in_the_bundle(built: Path, bundle: Bundle) -> None:
    vision, text = (bundle.read(f"licences/{name}.txt").decode() for name in ("vision", "text"))
    assert "See, and let see." in vision and "Read freely." not in vision
    assert "Read freely." in text
    assert "vision encoder: a network of its own, from see.onnx; licence MIT" in bundle.manifest.attribution
    assert str(built) not in bundle.read(RECIPE_FILE).decode(), "where things lie on this machine is nobody's business"
    assert bundle.read("tokenizer.model") == (built / "nets" / "read.model").read_bytes()


def test_the_plan_is_chosen_by_moments_that_are_not_judged(built: Path) -> None:
    found = read_plan(built / "work" / "ward" / "quantised")
    judged = 40
    assert found.moments > judged, "more than the evaluated split holds: those of the training split"


def test_rows_are_kept_and_found_again(built: Path) -> None:
    cache = built / "work" / "ward" / "cache"
    for stage, width in (("vision", 24 * 3 * 4), ("text", 24)):
        (rows,) = cache.glob(f"{stage}-*.rows")
        assert rows.stat().st_size > 0 and rows.stat().st_size % (4 * width) == 0


def test_a_file_that_says_otherwise_than_its_graph_is_found_out(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = built / "work" / "ward" / "train"
    recipe = load_recipe(built / "ward.toml")[0]
    assert isinstance(recipe, Recipe)
    trained = load_trained(recipe, work)
    recipe = msgspec.structs.replace(recipe, streams=trained.record.streams)
    with np.load(work / "samples.npz") as arrays:
        samples = {name: arrays[name] for name in arrays.files}
    for encoder in trained.model.encoders.values():
        if (graph := getattr(encoder, "graph", None)) is not None:
            changed = copy.deepcopy(graph(1))  # it is kept, and shared
            for tensor in changed.graph.initializer:
                if tensor.data_type == 1 and len(tensor.dims) >= 2:
                    values = np.random.default_rng(0).normal(size=tensor.dims).astype(np.float32)
                    tensor.raw_data = values.tobytes()
            monkeypatch.setattr(encoder, "graph", lambda rows, changed=changed: changed)
    assert all(cosine < 0.9999 for cosine in faithful(recipe, trained, samples).values())


def test_another_file_under_the_same_name_is_another_network(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = arguments(built, "--to", "export")
    assert call(monkeypatch, *again) == 0
    said = capsys.readouterr().out
    assert said.count("nothing has changed") == 3, said
    file, before = built / "nets" / "see.onnx", (built / "nets" / "see.onnx").read_bytes()
    try:
        torch.manual_seed(1)
        torch.onnx.export(
            See().eval(), (torch.zeros(1, 3, 12, 16),), str(file), input_names=["pixels"],
            output_names=["shares", "hidden"], opset_version=17, dynamo=False,
        )  # fmt: skip
        assert call(monkeypatch, *again) == 0
        assert "nothing has changed" not in capsys.readouterr().out
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('output = "hidden"', 'output = "features"', "has no output 'features'; there are shares, hidden"),
        ("views = 2", "views = 2\nunfreeze = 1", "model.vision.unfreeze is 1; a network from a file of its own stays"),
        ('tokenizer = "nets/read.model"\n', "", "needs the tokenizer that it was trained with: tokenizer.json"),
        ('file = "nets/see.onnx"', 'file = "nets/none.onnx"', "none.onnx', which is not there"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    old: str, new: str, why: str,
) -> None:  # fmt: skip
    text = recipe_text()
    assert old in text
    (built / "other.toml").write_text(text.replace(old, new))
    places = ("--data", built / "data", "--out", tmp_path / "out", "--work", tmp_path / "work", "--to", "train")
    assert call(monkeypatch, "run", built / "other.toml", *places) == 2
    assert why in capsys.readouterr().err
