"""Mean absolute errors, their intervals, and what the gate allows them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from build_engines.gate.limits import fallen
from build_engines.heads.intervals import resamples
from build_engines.heads.regression import ValuePairs
from build_engines.recipe import GateRecipe
from edge_runtime.heads.regression import Value

VALUES = (Value("steer", "rad", -1.0, 1.0, safe=0.0), Value("speed", "m/s", 0.0, 20.0, safe=0.0))
RNG = np.random.default_rng(0)
TRUTH = np.stack([RNG.uniform(-1, 1, 200), RNG.uniform(0, 20, 200)], axis=1)
GROUPS = [str(index // 4) for index in range(200)]


def pairs(off: tuple[float, float]) -> ValuePairs:
    """Answers that are off by up to so much, evenly to both sides."""
    turn = np.where(np.arange(200) % 2, 1.0, -1.0)[:, None]
    return ValuePairs(TRUTH, TRUTH + turn * np.array(off), VALUES, GROUPS)


def test_errors_are_those_of_scikit_learn() -> None:
    said = TRUTH + RNG.normal(0.05, 0.1, TRUTH.shape)
    scores = ValuePairs(TRUTH, said, VALUES, GROUPS).scores
    for index, name in enumerate(("steer", "speed")):
        one = scores.values[name]
        assert one.mae == pytest.approx(mean_absolute_error(TRUTH[:, index], said[:, index]))
        assert one.rmse == pytest.approx(root_mean_squared_error(TRUTH[:, index], said[:, index]))
        assert one.bias == pytest.approx(float((said - TRUTH)[:, index].mean()))
    assert scores.nmae == pytest.approx((scores.values["steer"].mae / 2 + scores.values["speed"].mae / 20) / 2)
    assert scores.worst == "steer"


def test_right_is_what_is_near_in_every_value() -> None:
    assert pairs((0.19, 1.9)).scores.accuracy == 1.0
    assert pairs((0.21, 0.0)).scores.accuracy == 0.0


def test_a_resample_gives_the_figures_of_its_own_moments() -> None:
    found = ValuePairs(TRUTH, TRUTH + RNG.normal(0, 0.1, TRUTH.shape), VALUES, GROUPS)
    draws = resamples(GROUPS, 20, 0)
    parts, figures = found.part_bootstrap(draws), found.bootstrap(draws)
    for index, draw in enumerate(draws):
        again = ValuePairs(TRUTH[draw], found.predicted[draw], VALUES, GROUPS).scores
        assert parts["speed"][index] == pytest.approx(again.values["speed"].mae)
        assert figures[index] == pytest.approx(again.figure)


def test_the_gate_lets_an_error_grow_by_a_factor_or_by_a_hair_and_no_further() -> None:
    gate = GateRecipe(mae_ratio=1.05, mae_slack=0.001)
    before = pairs((0.1, 1.0)).scores
    assert fallen("model", before, pairs((0.1049, 1.049)).scores, gate) == []
    (line,) = fallen("model", before, pairs((0.1, 1.06)).scores, gate)
    assert line.startswith("model: speed: mean absolute error 1 -> 1.06 m/s, more than 1.05 times")
    perfect = pairs((0.0, 0.0)).scores
    assert fallen("model", perfect, pairs((0.0019, 0.019)).scores, gate) == []
    assert len(fallen("model", perfect, pairs((0.0021, 0.021)).scores, gate)) == 2
    broken = msgspec.structs.replace(
        before, values={name: msgspec.structs.replace(one, mae=float("nan")) for name, one in before.values.items()}
    )
    assert len(fallen("model", before, broken, gate)) == 2, "what is no number has not passed"


def test_a_reference_must_beat_what_always_says_the_same() -> None:
    words, always = pairs((0.1, 1.0)).constant()
    assert "steer" in words and always.nmae == pytest.approx(0.25, abs=0.03)
    assert pairs((0.1, 1.0)).poor() is None
    constant = ValuePairs(TRUTH, np.broadcast_to(np.median(TRUTH, axis=0), TRUTH.shape), VALUES, GROUPS)
    assert "check the values and the scaling of inputs" in str(constant.poor())
    assert pairs((0.1, 1.0)).scores.below(GateRecipe(nmae=0.051)) is None
    assert "at most 4.00%" in str(pairs((0.1, 1.0)).scores.below(GateRecipe(nmae=0.04)))
