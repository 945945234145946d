"""Networks in files of one's own, ONNX and TorchScript: fed as a device feeds them, joined, and refused in one line."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from build_engines.foreign.recipe import PixelRecipe
from build_engines.foreign.torchscript import is_torchscript
from build_engines.pretrained.network_file import NetworkFile, Plan, Pool, load_network
from build_engines.pretrained.recipe import PretrainedKeys
from build_engines.pretrained.shelf import holds_network, origin_of
from edge_runtime.errors import UserError
from edge_runtime.specs import CameraStream, TextStream

HEIGHT, WIDTH, PIECES = 12, 16, 6
CAMERA = CameraStream(WIDTH, HEIGHT, rate_hz=1.0, max_age_ms=1000.0)
TEXT = TextStream(PIECES, max_age_ms=1000.0)
IMAGENET = PixelRecipe(normalisation="imagenet")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Maps(nn.Module):
    """RGB [B, 3, H, W] to 5 maps of half the size, their mean, or hidden values of each place."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives
        self.conv = nn.Conv2d(3, 5, 3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        maps = torch.relu(self.conv(image))
        if self.gives == "vector":
            return maps.mean((2, 3))
        return maps.flatten(2).transpose(1, 2) if self.gives == "places" else maps


class Sentence(nn.Module):
    """Pieces and mask to hidden values of each piece, and their sum, which the mask hides in part."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(20, 7), nn.Linear(7, 7)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.inner(self.table(input_ids))) + attention_mask.unsqueeze(-1)
        return hidden, hidden.sum(1)


class Alone(nn.Module):
    """Pieces without a mask."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.table, self.pooled = nn.Embedding(20, 7), pooled

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.table(input_ids)
        return hidden.mean(1) if self.pooled else hidden


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)


def sentences() -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    ids = np.random.default_rng(1).integers(1, 20, (3, PIECES)).astype(np.int32)
    mask = (np.arange(PIECES)[None] < np.array([[2], [6], [4]])).astype(np.float32)
    return ids, mask


def normalised(images: NDArray[np.uint8]) -> Tensor:
    """As torchvision would, from the device's BGR."""
    rgb = torch.from_numpy(images[..., ::-1].copy()).float() / 255
    return ((rgb - MEAN) / STD).permute(0, 3, 1, 2)


def onnx_file(path: Path, module: nn.Module, *inputs: Tensor, names: tuple[str, ...], **settings: Any) -> Path:
    torch.onnx.export(
        module.eval(), inputs, str(path), input_names=list(names), opset_version=17, dynamo=False, **settings
    )  # fmt: skip
    return path


def picture_file(folder: Path, kind: str, gives: str = "maps") -> tuple[Path, Maps]:
    torch.manual_seed(0)
    module = Maps(gives).eval()
    example = torch.zeros(1, 3, HEIGHT, WIDTH)
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(module, example), str(folder / "net.pt"))  # type: ignore[no-untyped-call]
        return folder / "net.pt", module
    axes = {"image": {0: "batch"}}
    return onnx_file(folder / "net.onnx", module, example, names=("image",), dynamic_axes=axes), module


def sentence_file(folder: Path, kind: str) -> tuple[Path, Sentence]:
    torch.manual_seed(0)
    module = Sentence().eval()
    examples = torch.ones(1, PIECES, dtype=torch.int64), torch.ones(1, PIECES, dtype=torch.int64)
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(module, examples), str(folder / "net.pt"))  # type: ignore[no-untyped-call]
        return folder / "net.pt", module
    names = ("input_ids", "attention_mask")
    outputs = ["output_0", "output_1"]
    return onnx_file(folder / "net.onnx", module, *examples, names=names, output_names=outputs), module


def network(path: Path, plan: Plan, spec: CameraStream | TextStream) -> NetworkFile:
    return load_network(path, str(path), plan, spec)


def close(actual: NDArray[Any], expected: Tensor) -> None:
    np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    ("gives", "pool", "width"),
    [("vector", "mean", 5), ("maps", "mean", 5), ("maps", "grid", 240), ("places", "mean", 5)],
)
def test_a_camera_s_bytes_go_in_and_a_vector_comes_out(
    tmp_path: Path, kind: str, gives: str, pool: Pool, width: int
) -> None:
    path, module = picture_file(tmp_path, kind, gives)
    made = network(path, Plan("", pool, IMAGENET), CAMERA)
    images = pictures(3)
    with torch.no_grad():
        maps = module.conv(normalised(images)).relu()
    expected = maps.flatten(1) if pool == "grid" else maps.mean((2, 3))
    assert made.width == width == expected.shape[1]
    close(made([images]), expected)
    close(made.reference([images]), expected)


@pytest.mark.parametrize(
    "pixels",
    [
        PixelRecipe(layout="NHWC", colour="BGR", normalisation="caffe"),
        PixelRecipe(layout="NHWC", colour="GREY", normalisation="unit"),
        PixelRecipe(colour="BGR", scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0,)),
        PixelRecipe(normalisation="symmetric"),
    ],
)
def test_pixels_are_made_as_the_recipe_says(tmp_path: Path, pixels: PixelRecipe) -> None:
    planes = 1 if pixels.colour == "GREY" else 3
    channels_first = pixels.layout == "NCHW"
    shape = (1, planes, HEIGHT, WIDTH) if channels_first else (1, HEIGHT, WIDTH, planes)
    weights = torch.randn(shape[1:])

    class Weighed(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return (image * weights).flatten(1).cumsum(1)[:, ::7]

    path = onnx_file(tmp_path / "net.onnx", Weighed(), torch.zeros(shape), names=("image",))
    images = pictures(2)
    gain, offset = pixels.line()
    values = images if pixels.colour != "RGB" else images[..., ::-1]
    if planes == 1:
        values = (images @ np.array([0.114, 0.587, 0.299]))[..., None]
    fed = torch.from_numpy((values * gain.astype(np.float64) + offset).astype(np.float32))
    expected = Weighed()(fed.permute(0, 3, 1, 2) if channels_first else fed)
    made = network(path, Plan("", "mean", pixels), CAMERA)
    scale = float(expected.abs().max())
    close(made([images]) / scale, expected / scale)
    close(made.reference([images]) / scale, expected / scale)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
@pytest.mark.parametrize(("output", "pool"), [("", "mean"), ("output_0", "first"), ("output_1", "mean")])
def test_a_sentence_s_padding_does_not_count(tmp_path: Path, kind: str, output: str, pool: Pool) -> None:
    path, module = sentence_file(tmp_path, kind)
    made = network(path, Plan(output, pool), TEXT)
    ids, mask = sentences()
    with torch.no_grad():
        hidden, summed = module(torch.from_numpy(ids).long(), torch.from_numpy(mask).long())
    valid = torch.from_numpy(mask).unsqueeze(-1)
    mean = (hidden * valid).sum(1) / valid.sum(1)
    expected = summed if output == "output_1" else hidden[:, 0] if pool == "first" else mean
    assert made.fields == ("ids", "mask")
    assert [value.name for value in made.model.graph.input] == ["ids", "mask"]
    close(made([ids, mask]), expected)
    close(made.reference([ids, mask]), expected)


def test_places_and_types_are_given_where_they_are_asked_for(tmp_path: Path) -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.place, self.kind = nn.Embedding(20, 7), nn.Embedding(PIECES, 7), nn.Embedding(2, 7)

        def forward(self, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor, mask: Tensor) -> Tensor:
            hidden = self.table(input_ids) + self.place(position_ids) + self.kind(token_type_ids)
            return (hidden * mask.unsqueeze(-1)).sum(1)

    module = Placed()
    names = ("input_ids", "position_ids", "token_type_ids", "mask")
    example = torch.ones(1, PIECES, dtype=torch.int64)
    path = onnx_file(tmp_path / "net.onnx", module, *([example] * 4), names=names)
    ids, mask = sentences()
    places = torch.arange(PIECES).unsqueeze(0).expand(3, -1)
    with torch.no_grad():
        expected = module(torch.from_numpy(ids).long(), places, torch.zeros_like(places), torch.from_numpy(mask))
    close(network(path, Plan("", "mean"), TEXT)([ids, mask]), expected)


def test_a_network_without_a_mask_is_taken_only_where_padding_can_be_left_out(tmp_path: Path) -> None:
    example = torch.ones(1, PIECES, dtype=torch.int64)
    ids, mask = sentences()
    places = Alone(pooled=False)
    path = onnx_file(tmp_path / "places.onnx", places, example, names=("input_ids",))
    made = network(path, Plan("", "mean"), TEXT)
    valid = torch.from_numpy(mask).unsqueeze(-1)
    close(made([ids, mask]), (places(torch.from_numpy(ids).long()) * valid).sum(1) / valid.sum(1))
    path = onnx_file(tmp_path / "pooled.onnx", Alone(pooled=True), example, names=("input_ids",))
    with pytest.raises(UserError, match="takes no mask, so that padding would count"):
        network(path, Plan("", "mean"), TEXT)


def test_several_cameras_are_rows_of_one_graph(tmp_path: Path) -> None:
    from tests.build_engines import small_graphs as small

    path, _ = picture_file(tmp_path, "onnx")
    made = network(path, Plan("", "mean", IMAGENET), CAMERA)
    images = pictures(2)
    both = small.run(made.for_rows(2), {"image": images})[0]
    np.testing.assert_allclose(both, made([images]), atol=1e-5)
    path, _ = picture_file(tmp_path, "torchscript")
    with pytest.raises(UserError, match=r"net\.pt: input 'image' is \[1, 3, 12, 16\]"):
        network(path, Plan("", "mean", IMAGENET), CAMERA).for_rows(2)


@pytest.mark.parametrize(
    ("plan", "spec", "why"),
    [
        (Plan("logits", "mean", IMAGENET), CAMERA, "has no output 'logits'"),
        (Plan("", "mean"), CAMERA, "say how it was trained: pixels ="),
        (Plan("", "mean", IMAGENET), CameraStream(20, 12, rate_hz=1.0, max_age_ms=1.0), "input 'image' is"),
        (Plan("", "mean"), TEXT, "ONNX|input"),
        (Plan("", "first", IMAGENET), CAMERA, "pool = 'first' is for"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, plan: Plan, spec: CameraStream | TextStream, why: str) -> None:
    torch.manual_seed(0)
    path = onnx_file(tmp_path / "net.onnx", Maps("maps"), torch.zeros(1, 3, HEIGHT, WIDTH), names=("image",))
    with pytest.raises(UserError, match=why) as refusal:
        network(path, plan, spec)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


def keys(path: Path, **more: Any) -> PretrainedKeys:
    return PretrainedKeys(file=str(path), **more)


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    exploded = tmp_path / "exploded"
    torch.save(Bomb(exploded), tmp_path / "module.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(exploded)))
    (tmp_path / "program.pt2").write_bytes(b"PK")
    with zipfile.ZipFile(tmp_path / "looks.pt", "w") as archive:  # what TorchScript is known by, and a bomb
        for name in ("looks/code/net.py", "looks/constants.pkl", "looks/data.pkl", "looks/version"):
            archive.writestr(name, pickle.dumps(Bomb(exploded)))
    for name, why in (
        ("module.pt", "network is ''; weights can be read of lite. A network of another kind is given as ONNX"),
        ("plain.pt", "network is ''"),
        ("program.pt2", "torch.export.load unpickles what it reads; save the program as ONNX"),
    ):
        assert not holds_network(keys(tmp_path / name))
        with pytest.raises(UserError, match=why):
            origin_of(keys(tmp_path / name), {}, ("lite",))
    assert is_torchscript(tmp_path / "looks.pt")
    with pytest.raises(UserError, match="TorchScript that cannot be read"):
        network(tmp_path / "looks.pt", Plan("", "mean", IMAGENET), CAMERA)
    assert not exploded.exists()


def test_where_it_comes_from_is_told(tmp_path: Path) -> None:
    import hashlib

    path, _ = picture_file(tmp_path, "onnx")
    (tmp_path / "NOTICE.txt").write_text("Name me.")
    (tmp_path / "elsewhere.txt").write_text("Only on Sundays.")
    origin = origin_of(keys(path, licence="MIT"), {}, ())
    assert origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert origin.words == "a network of its own, from net.onnx; licence MIT"
    assert origin.licence_texts == ("Name me.",)
    named = origin_of(keys(path, licence_file=str(tmp_path / "elsewhere.txt")), {}, ())
    assert named.licence_texts == ("Only on Sundays.",) and named.sha256 == origin.sha256
    for more, why in (
        ({"network": "lite"}, "holds a network itself; leave it out"),
        ({"licence_file": str(tmp_path / "none.txt")}, "licence_file is .*none.txt': cannot be read"),
        ({"sha256": "ab" * 32}, "its sha256 is"),
    ):
        with pytest.raises(UserError, match=why):
            origin_of(keys(path, **more), {}, ("lite",))
