"""The samples layout: what a row becomes, what is refused, and mirrored moments."""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

import build_engines
from build_engines.data.datasets import Batch, answer_names, in_step, layout_of_recipe
from build_engines.data.mirror import Mirror
from build_engines.data.samples import prepare, read
from build_engines.recipe import DatasetRecipe, MirrorRecipe, Recipe, load_recipe
from calibration.moments import replay
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.streams import Channel, SensorStream
from tests.build_engines.samples_folder import RECIPE, row_of, write_rows, write_samples

ROOT = Path(build_engines.__file__).parents[1]
DATA = Path(os.environ.get("EDGE_RUNTIME_DATA", ROOT.parent / "shared" / "data"))
REAL = {"driving_rc": "driving-rc", "driving_sim": "driving-sim", "medical": "medical-cxr"}


@pytest.mark.parametrize("name", REAL)
def test_the_real_data_is_read_by_its_recipe(name: str) -> None:
    data = DATA / REAL[name]
    if not (data / "val").is_dir():
        pytest.skip(f"no {REAL[name]} data at {data}; set EDGE_RUNTIME_DATA to its parent folder")
    found, _ = load_recipe(ROOT / "build_engines" / "recipes" / f"{name}.toml")
    assert isinstance(found, Recipe)
    refused: Counter[str] = Counter()
    sets = islice(layout_of_recipe(found).read(data, "val", found.streams), 200)
    seen = list(replay(found.streams, sets, refused=refused))
    assert {moment.label for moment, _ in seen} == set(answer_names(found))
    assert all(moment.cluster for moment, _ in seen)
    present = Counter(name for _, one in seen for name, part in one.slices.items() if part.present)
    assert all(present[stream] > 0 for stream in found.modalities)
    assert present[found.trigger] == len(seen)
    assert not [reason for reason in refused if reason.startswith("camera")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "ward.toml"
    path.write_text(RECIPE)
    found = load_recipe(path)[0]
    assert isinstance(found, Recipe)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ward")
    write_samples(folder, "train", 40, 1)
    write_samples(folder, "val", 20, 2)
    return folder


def test_a_row_becomes_a_moment_of_its_own(recipe: Recipe, data: Path) -> None:
    moments = list(layout_of_recipe(recipe).read(data, "val", recipe.streams))
    assert len({one.group for one in moments}) == len(moments) == 20
    assert {one.label for one in moments} == {"none", "ill"}
    assert moments[0].cluster == moments[1].cluster == "val 0"
    assert {one.condition for one in moments} == {"PA", "AP"}


def test_what_is_null_never_arrives_and_words_become_numbers(recipe: Recipe, data: Path) -> None:
    seen = [aligned for _, aligned in replay(recipe.streams, read(data, "val", recipe.streams, recipe.dataset))]
    present = [{name for name, part in one.slices.items() if part.present} for one in seen[:5]]
    everything = {"camera.front", "text", "sensors"}
    absent = [everything - one for one in present]
    assert absent == [set(), {"camera.front"}, {"sensors"}, {"text"}, set()]
    prepared = prepare(recipe, data, data)
    batch = prepared.val[0]
    assert batch.presence[:5].tolist() == [[1, 1, 1], [0, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]]
    window, mask = batch.inputs["sensors"]
    assert mask[0].tolist() == [[1, 1]]
    assert mask[2].tolist() == [[0, 0]]
    assert window[2].tolist() == [[0, 0]]
    assert window[0, 0, 1] > 0 > window[1, 0, 1]  # M, F


def test_an_impossible_value_is_refused_alone(recipe: Recipe, tmp_path: Path) -> None:
    row = row_of(0, "val", True) | {"image": None, "sensors": {"spo2_percent": 340.0, "sex": "F"}}
    write_rows(tmp_path, "val", [row])
    _, aligned = next(iter(replay(recipe.streams, read(tmp_path, "val", recipe.streams, recipe.dataset))))
    values = [message.values for message in aligned.slices["sensors"].messages]  # type: ignore[union-attr]
    assert values == [{"sex": 0.0}]


@pytest.mark.parametrize(
    "change",
    [
        {"sensors": {"spo2_percent": "97.5", "sex": "F"}},
        {"sensors": {"SpO2_Percent": 97.5, "Sex": "F"}},
        {"sensors": {"spo2_percent": 97.5, "sex": "F", "other": "x"}},
    ],
)
def test_readings_as_tools_write_them(recipe: Recipe, tmp_path: Path, change: dict[str, object]) -> None:
    write_rows(tmp_path, "val", [row_of(0, "val", True) | {"image": None} | change])
    (moment,) = read(tmp_path, "val", recipe.streams, recipe.dataset)
    assert [one.content for one in moment.messages if one.stream == "sensors"] == [{"spo2_percent": 97.5}, {"sex": 0.0}]


@pytest.mark.parametrize("nothing", [None, float("nan"), "", "NaN", "NA", "null", "-", " "])
def test_what_tools_write_where_there_is_no_value_never_arrives(
    recipe: Recipe, tmp_path: Path, nothing: object
) -> None:
    fields = {"image": nothing, "sensors": {"spo2_percent": nothing, "sex": nothing}}
    write_rows(tmp_path, "val", [row_of(0, "val", True) | fields])
    (moment,) = read(tmp_path, "val", recipe.streams, recipe.dataset)
    assert [one.stream for one in moment.messages] == ["text"]


def test_fields_in_capitals_are_found(recipe: Recipe, tmp_path: Path) -> None:
    row = row_of(0, "val", True) | {"image": None}
    (tmp_path / "lower").mkdir()
    (tmp_path / "upper").mkdir()
    write_rows(tmp_path / "lower", "val", [row])
    finding = {name.upper(): value for name, value in row["finding"].items()}
    write_rows(
        tmp_path / "upper", "val", [{name.title(): value for name, value in (row | {"finding": finding}).items()}]
    )
    lower, upper = (list(read(tmp_path / name, "val", recipe.streams, recipe.dataset)) for name in ("lower", "upper"))
    assert lower == upper


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sensors": [1, 2]}, "a list of readings"),
        ({"sensors": 7}, "channels and their values"),
        ({"image": 7}, "the name of a file"),
        ({"text": {"en": "hello"}}, "one text"),
        ({"finding": {"code": float("nan")}}, "'none'"),
        ({"image": "val/images/gone.jpg"}, "gone.jpg"),
        ({"finding": {"code": 7}}, "'7'"),
        ({"finding": {}}, "finding.code"),
        ({"finding": {"code": [1, 0]}}, "several values"),
        ({"sensors": {"sex": "X"}}, "knows M, F"),
        ({"sensors": {"spo2_percent": "high"}}, "number or null"),
        ({"id": ""}, "no id"),
    ],
)
def test_a_wrong_row_is_one_line_naming_it(
    recipe: Recipe, tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    write_rows(tmp_path, "val", [row_of(0, "val", True) | {"image": None} | change])
    with pytest.raises(UserError) as caught:
        list(read(tmp_path, "val", recipe.streams, recipe.dataset))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_are_excluded_are_in_no_split(recipe: Recipe, data: Path) -> None:
    dataset = msgspec.structs.replace(recipe.dataset, exclude=("val-003",))
    moments = list(read(data, "val", recipe.streams, dataset))
    assert len(moments) == 19
    assert "val-003" not in {one.id for one in moments}


def test_a_group_in_both_splits_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_samples(tmp_path, split, 10, 1)
    dataset = msgspec.structs.replace(recipe.dataset, group="patient")
    with pytest.raises(UserError, match="both train and val"):
        prepare(msgspec.structs.replace(recipe, dataset=dataset), tmp_path, tmp_path)


def test_a_picture_that_is_none_stops_training(recipe: Recipe, tmp_path: Path) -> None:
    rows = write_samples(tmp_path, "train", 10, 1)
    write_samples(tmp_path, "val", 10, 2)
    (tmp_path / str(rows[0]["image"])).write_bytes(b"no picture")
    with pytest.raises(UserError, match="train-000: the device refuses its picture"):
        prepare(recipe, tmp_path, tmp_path)


def test_auxiliary_labels_come_from_their_field(recipe: Recipe, data: Path) -> None:
    model = recipe.model
    assert model.vision is not None
    vision = msgspec.structs.replace(model.vision, aux={"view": 2})
    dataset = msgspec.structs.replace(recipe.dataset, aux={"view": "view"})
    found = msgspec.structs.replace(recipe, model=msgspec.structs.replace(model, vision=vision), dataset=dataset)
    prepared = prepare(found, data, data)
    assert prepared.val[0].aux["view"][:4].tolist() == [0, 1, 1, 0]  # AP, PA, PA, AP
    assert prepared.train.aux_counts["view"].tolist() == [14, 26]
    wrong = msgspec.structs.replace(
        found, model=msgspec.structs.replace(model, vision=msgspec.structs.replace(vision, aux={"view": 3}))
    )
    with pytest.raises(UserError, match=r"aux\.view is 3.*2 values \(AP, PA\)"):
        prepare(wrong, data, data)


def test_an_auxiliary_number_falls_into_its_bin(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe.model.vision is not None
    for split in ("train", "val"):
        rows = [
            row_of(index, split, index % 2 == 0) | {"image": None, "site": split, "targets": {"bend": value}}
            for index, value in enumerate((-0.9, -0.2, 0.0, 0.3, None))
        ]
        write_rows(tmp_path, split, rows)
    vision = msgspec.structs.replace(recipe.model.vision, aux={"bend": 3})
    found = msgspec.structs.replace(
        recipe,
        model=msgspec.structs.replace(recipe.model, vision=vision),
        dataset=msgspec.structs.replace(recipe.dataset, aux={"bend": "targets.bend"}, bins={"bend": (-0.5, 0.0)}),
    )
    prepared = prepare(found, tmp_path, tmp_path)
    assert prepared.val[0].aux["bend"].tolist() == [0, 1, 2, 2, -100]


def _road() -> tuple[SensorStream, Batch]:
    channels = (
        Channel("steering", "1", -1.0, 1.0, mean=0.1, std=0.4),
        Channel("speed", "m/s", 0.0, 20.0, mean=5.0, std=2.0),
    )
    rng = np.random.default_rng(0)
    count = 64
    steering = rng.uniform(-1, 1, count)
    window = np.stack([(steering - 0.1) / 0.4, rng.normal(size=count)], axis=1)[:, None].astype(np.float32)
    batch = Batch(
        inputs=(
            inputs := {
                "vision": (rng.integers(0, 256, (count, 1, 4, 6, 3)).astype(np.uint8),),
                "sensors": (window, np.ones_like(window)),
            }
        ),
        rows=in_step(inputs, count),
        label=rng.integers(0, 3, count),
        presence=np.ones((count, 2), np.float32),
        aux={"bend": np.where(np.arange(count) % 4 == 0, -100, rng.integers(0, 2, count))},
    )
    return SensorStream(channels, rate_hz=10.0, max_age_ms=100.0), batch


def test_mirrored_moments_change_picture_sign_and_label_together() -> None:
    spec, batch = _road()
    plan = MirrorRecipe(labels=(("left", "right"),), channels=("steering",))
    mirror = Mirror(plan, {"sensors": spec}, ("left", "straight", "right"), {"bend": ("left", "right")})
    found = mirror(batch, np.random.default_rng(1))
    (seen,), (shown,) = found.inputs["vision"], batch.inputs["vision"]
    turned = np.array([not np.array_equal(a, b) for a, b in zip(seen, shown, strict=True)])
    assert 16 < turned.sum() < 48
    assert np.array_equal(seen[turned], shown[turned][:, :, :, ::-1])
    before, after = (
        sensors[0][:, 0] * (0.4, 2.0) + (0.1, 5.0) for sensors in (batch.inputs["sensors"], found.inputs["sensors"])
    )
    assert after[turned, 0] == pytest.approx(-before[turned, 0], abs=1e-5)
    assert after[~turned, 0] == pytest.approx(before[~turned, 0])
    assert after[:, 1] == pytest.approx(before[:, 1])
    assert found.label.tolist() == np.where(turned, 2 - batch.label, batch.label).tolist()
    bend = batch.aux["bend"]
    assert found.aux["bend"].tolist() == np.where(turned & (bend >= 0), 1 - bend, bend).tolist()


def test_a_hidden_value_stays_hidden_in_the_mirror() -> None:
    spec, batch = _road()
    for values in batch.inputs["sensors"]:
        values[:] = 0.0
    plan = MirrorRecipe(labels=(("left", "right"),), channels=("steering",))
    found = Mirror(plan, {"sensors": spec}, ("left", "straight", "right"), {"bend": ("left", "right")})(
        batch, np.random.default_rng(1)
    )
    assert not found.inputs["sensors"][0].any()


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (MirrorRecipe(labels=(("left", "rihgt"),)), "rihgt"),
        (MirrorRecipe(channels=("steering_angle",)), "steering_angle"),
    ],
)
def test_a_mirror_of_what_is_not_there_is_refused(plan: MirrorRecipe, named: str) -> None:
    spec, _ = _road()
    with pytest.raises(UserError, match=named):
        Mirror(plan, {"sensors": spec}, ("left", "straight", "right"), {})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('safe_label = "undecided"', 'safe_label = "well"', "ill, none, undecided"),
        ('labels = ["ill"]', 'labels = ["ill", "none"]', "finds no label"),
        (
            'safe_label = "undecided"',
            'safe_label = "none"\nhold = 3',
            "decision.hold is set, which a sigmoid head does not read",
        ),
        ('group = ["site", "patient"]', "grupo = 1", "grupo"),
        ('head = "sigmoid"', "", "at least two"),
    ],
)
def test_contradictions_of_a_sigmoid_recipe(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = tmp_path / "wrong.toml"
    assert old in RECIPE
    path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=expected):
        load_recipe(path)


def test_fields_mean_what_they_are_called_by_default() -> None:
    assert DatasetRecipe().groups == ()
    assert DatasetRecipe(group="block").groups == ("block",)
