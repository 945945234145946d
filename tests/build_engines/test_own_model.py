"""A plain convolutional net from elsewhere becomes a gated, signed bundle, and the runtime serves it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from build_engines.cli import cli
from edge_runtime.bundle import open_bundle
from edge_runtime.cli import run_command
from edge_runtime.config import Config, ImagesSource, PublishConfig
from edge_runtime.publish.subscriber import Subscriber
from edge_runtime.runtime import Runtime
from tests.build_engines.adoption.test_adopt import MEAN, RECIPE, STD, Net
from tests.conftest import running

LABELS = ("ball", "box", "cone")
QUANTISE = '\n[calibrate]\nsamples = 24\n[quantise]\nstages = ["classifier"]\n'


def draw(label: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A 24 x 16 picture: a shape of its own colour and place on a noisy ground."""
    image = rng.integers(0, 70, (16, 24, 3)).astype(np.uint8)
    x, y = int(rng.integers(7, 17)), int(rng.integers(6, 10))
    colour = {"ball": (60, 60, 230), "box": (60, 220, 60), "cone": (230, 120, 60)}[label]
    if label == "ball":
        cv2.circle(image, (x, y), 5, colour, -1)
    elif label == "box":
        cv2.rectangle(image, (x - 5, y - 4), (x + 5, y + 4), colour, -1)
    else:
        cv2.fillPoly(image, [np.array([[x, y - 5], [x - 5, y + 5], [x + 5, y + 5]])], colour)
    return image


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures by label, and a net that was trained on them as one trains such nets."""
    folder = tmp_path_factory.mktemp("brought")
    rng = np.random.default_rng(0)
    pictures, labels = [], []
    for split, count in (("train", 40), ("val", 25)):
        for index, label in enumerate(LABELS):
            (folder / "data" / split / label).mkdir(parents=True)
            for number in range(count):
                encoded = cv2.imencode(".jpg", draw(label, rng), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
                (folder / "data" / split / label / f"{number:03d}.jpg").write_bytes(encoded.tobytes())
                if split == "train":
                    pictures.append(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
                    labels.append(index)
    values = (np.stack(pictures)[..., ::-1] / 255.0 - MEAN) / STD
    images = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32))
    torch.manual_seed(0)
    net, truth = Net(), torch.tensor(labels)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images), truth).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    torch.onnx.export(
        net.eval(), (images[:2],), str(folder / "net.onnx"), input_names=["input"], output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip
    (folder / "shapes.toml").write_text(RECIPE + QUANTISE)
    return folder


def _build(folder: Path, recipe: Path, out: Path) -> int:
    arguments = ["run", str(recipe), "--data", str(folder / "data"), "--out", str(out), "--work", str(out / "work")]
    return run_command(cli, arguments)


def test_it_becomes_a_bundle_that_the_runtime_serves(brought: Path, tmp_path: Path) -> None:
    assert _build(brought, brought / "shapes.toml", tmp_path) == 0
    bundle = open_bundle(tmp_path / "shapes", [tmp_path / "shapes.pem"])
    (stage,) = bundle.manifest.stages
    assert set(stage.files) == {"fp32", "fp16", "int8"}
    assert bundle.manifest.figures["model_f1_macro"] > 0.95
    assert bundle.manifest.precision["tensorrt"]["classifier"] in ("fp16", "int8")
    gate = json.loads(bundle.read("report/gate.json"))
    assert {one["name"] for one in gate[0]} >= {"fp32", "plan"}
    config = Config(
        name="shapes",
        bundle=str(tmp_path / "shapes"),
        trusted_keys=(str(tmp_path / "shapes.pem"),),
        source=(ImagesSource("camera.front", str(brought / "data" / "val" / "box"), rate_hz=20, loop=True),),
        publish=PublishConfig("tcp://127.0.0.1:*"),
    )
    with running(Runtime(config)) as runtime, Subscriber(runtime.decisions_endpoint, timeout_s=20) as subscriber:
        decision = next(one for one in subscriber if one.source == "model")
        assert decision.label == "box"


def test_wrong_input_scaling_is_refused(brought: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pixels of 0 to 255 into a net that was trained on 0 to 1, standardised."""
    recipe = brought / "unscaled.toml"
    recipe.write_text((RECIPE + QUANTISE).replace("pixels = {", "pixels = { scale = 0.00001,"))
    assert _build(brought, recipe, tmp_path) == 3
    assert "check the labels and the scaling of inputs" in capsys.readouterr().err
    assert not (tmp_path / "shapes").exists()


def test_labels_in_the_wrong_order_are_refused(
    brought: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = brought / "swapped.toml"
    recipe.write_text((RECIPE + QUANTISE).replace('["ball", "box", "cone"]', '["box", "cone", "ball"]'))
    assert _build(brought, recipe, tmp_path) == 3
    said = capsys.readouterr().err
    assert "the labels look swapped" in said
    assert "'box' where the data says 'ball'" in said
