"""The bank of variants feeds stages exactly as the device does."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from build_engines.quantisation.bank import Bank, Variant
from calibration.moments import LabelledSet, RawMessage, replay
from calibration.samples import read_samples
from edge_runtime.bundle import open_bundle
from edge_runtime.infer.stages import StageGraph
from edge_runtime.messages import Words
from edge_runtime.streams import preprocessors
from tests.tiny import HEIGHT, STREAMS, WIDTH, write_bundle

AT_NS = 1_000_000_000
MESSAGES = (
    RawMessage("camera", AT_NS, np.full((HEIGHT, WIDTH, 3), 200, np.uint8)),
    RawMessage("sensors", AT_NS, {"a": 9.0}),
    RawMessage("text", AT_NS, Words("please stop now")),
)
SUBSETS = [kept for size in range(4) for kept in combinations(STREAMS, size)]


def labelled(streams: tuple[str, ...]) -> LabelledSet:
    return LabelledSet("m", "m", AT_NS, "stop", tuple(one for one in MESSAGES if one.stream in streams))


@pytest.mark.parametrize("present", SUBSETS, ids="-".join)
def test_whatever_is_absent_the_bank_gives_the_live_graphs_logits(tmp_path: Path, present: tuple[str, ...]) -> None:
    bundle = open_bundle(write_bundle(tmp_path), allow_unsigned=True)
    moments = [labelled(present)]
    preprocess = preprocessors(STREAMS, bundle.read)
    graph = StageGraph(bundle, lambda name, part: preprocess[name](part))
    ((_, aligned),) = replay(STREAMS, moments)
    assert {name for name, part in aligned.slices.items() if part.present} == set(present)
    live = graph.run(aligned).output
    graph.close()
    variants = {
        stage.name: Variant("fp32", bundle.read(stage.files["fp32"]), "fp32") for stage in bundle.manifest.stages
    }
    banked = Bank(bundle.manifest, list(read_samples(bundle, moments))).outcome(variants).logits
    assert live is not None and np.array_equal(banked[0], live.ravel())
