"""The report: figures by scikit-learn, intervals that hold the value, pictures, and a page that needs nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import classification_report, roc_auc_score

from build_engines.evaluation.binary import curves
from build_engines.evaluation.evaluate import Evaluation
from build_engines.evaluation.page import Cells, Section, as_markdown
from build_engines.evaluation.report import analyse, full_report
from build_engines.heads.expected import Expected
from build_engines.heads.intervals import Interval
from build_engines.heads.prediction import Prediction
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.sigmoid import SigmoidHead
from edge_runtime.heads.softmax import SoftmaxHead
from tests import tiny

NASTY = '<b a="x">&$_{'


def _evaluation(labels: tuple[str, ...], count: int = 200, seed: int = 0) -> Evaluation:
    rng = np.random.default_rng(seed)
    predictions = []
    for index in range(count):
        logits = rng.normal(0, 1, len(labels))
        truth = int(rng.integers(len(labels)))
        logits[truth] += 1.5
        chances = np.exp(logits) / np.exp(logits).sum()
        said = labels[int(chances.argmax())]
        predictions.append(
            Prediction(
                str(index), labels[truth], said, float(chances.max()), "model", None,
                dict(zip(labels, chances.tolist(), strict=True)), "day" if index % 2 else "night", f"g{index // 4}",
            )
        )  # fmt: skip
    head = SoftmaxHead(labels, "stage:fusion:logits")
    return Evaluation.of(head, predictions, Counter(), {"total": [1_000_000] * count, "vision": [500_000] * 50}, {})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    head = SoftmaxHead((NASTY, "dark", "stop", "high"), "stage:fusion:logits")
    policy = DecisionPolicy("stop", temperature=0.8)
    path = tiny.write_bundle(tmp_path_factory.mktemp("tiny") / "t", policy=policy, head=head)
    return open_bundle(path, allow_unsigned=True)


@pytest.fixture(scope="module")
def files(bundle: Bundle) -> dict[str, bytes]:
    result = _evaluation(bundle.manifest.head.labels)
    return full_report(bundle, "val", result, analyse(bundle, result, gate="passed"))


def test_the_figures_are_scikit_learn_s_and_lie_in_their_intervals(bundle: Bundle, files: dict[str, bytes]) -> None:
    result = _evaluation(bundle.manifest.head.labels)
    truth, said = [one.truth for one in result.predictions], [one.label for one in result.predictions]
    expected = classification_report(truth, said, output_dict=True, zero_division=0)
    found = json.loads(files["evaluation.json"])
    for ours, theirs in (("macro", "macro avg"), ("weighted", "weighted avg")):
        for key, other in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert found["scores"]["averages"][ours][key] == pytest.approx(expected[theirs][other])
    assert found["scores"]["averages"]["micro"]["f1"] == pytest.approx(expected["accuracy"])
    sure = found["findings"]["intervals"]
    for one in (sure["figure"], sure["accuracy"], *sure["parts"].values()):
        assert one["low"] <= one["value"] <= one["high"]
        assert one["high"] - one["low"] > 0.01
    assert found["findings"]["latency_ms"]["vision"] == {"p50": 0.5, "p99": 0.5, "share": 0.25}
    assert any("gate: passed" in line for line in found["headline"])


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]


def test_the_page_needs_nothing_else_and_escapes_labels(files: dict[str, bytes]) -> None:
    page = files["evaluation.html"].decode()
    links = _Links()
    links.feed(page)
    assert links.sources and all(source.startswith("data:image/png;base64,") for source in links.sources)
    assert not {"script", "link", "iframe", "b"} & set(links.tags)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "&lt;b a=&#34;x&#34;&gt;&amp;" in page
    assert '<meta name="viewport"' in page


def test_pictures_are_small_pngs_and_the_page_holds_all(files: dict[str, bytes]) -> None:
    pictures = {name for name in files if name.endswith(".png")}
    assert {"confusion.png", "classes.png", "reliability.png", "risk.png"} <= pictures
    assert all(files[name][:4] == b"\x89PNG" and len(files[name]) < 100_000 for name in pictures)
    assert files["evaluation.html"].count(b"data:image/png") == len(pictures)
    assert sum(map(len, files.values())) < 1_500_000


def test_markdown_holds_every_class(bundle: Bundle, files: dict[str, bytes]) -> None:
    text = files["evaluation.md"].decode()
    for label, one in _evaluation(bundle.manifest.head.labels).scores.classes.items():
        assert f"| {label} | {one.precision:.3f} | {one.recall:.3f} | {one.f1:.3f} | " in text


def test_markdown_keeps_a_bar_in_a_label_in_its_cell() -> None:
    text = as_markdown("t", ["one"], [Section("s", (), Cells(("label", "F1"), (("a|b", "0.5"),)))])
    assert "| a\\|b | 0.5 |" in text and "| --- | ---: |" in text


def test_two_labels_have_curves_with_the_operating_point() -> None:
    labels = ("no", "yes")
    result = _evaluation(labels)
    head = SoftmaxHead(labels, "stage:x:y")
    found = curves(head, DecisionPolicy("no"), result.predictions)
    truth = [one.truth == "yes" for one in result.predictions]
    assert [one.label for one in found] == ["yes"]
    assert found[0].auc == pytest.approx(roc_auc_score(truth, [one.probabilities["yes"] for one in result.predictions]))
    assert found[0].point.recall == pytest.approx(result.scores.classes["yes"].recall)
    assert found[0].point.precision == pytest.approx(result.scores.classes["yes"].precision)
    assert curves(SoftmaxHead(("a", "b", "c"), "x"), DecisionPolicy("a"), result.predictions) == []


def test_a_sigmoid_head_has_a_curve_for_each_label_at_its_own_threshold() -> None:
    rows = [("a", {"a": 0.9, "b": 0.1}), ("none", {"a": 0.4, "b": 0.2}), ("b", {"a": 0.1, "b": 0.35})]
    predictions = [Prediction(str(i), t, t, 0.9, "model", None, p, head="sigmoid") for i, (t, p) in enumerate(rows)]
    policy = DecisionPolicy("none", thresholds={"b": 0.3})
    found = {one.label: one for one in curves(SigmoidHead(("a", "b"), "x"), policy, predictions)}
    assert found["a"].point.threshold == 0.5 and found["b"].point.threshold == 0.3
    assert found["b"].point.recall == 1.0 and found["b"].point.false_positive_rate == 0.0


def test_inspect_shows_the_headline(files: dict[str, bytes], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from build_engines.write_bundle import write_bundle
    from edge_runtime.cli.bundle import bundle as command

    plain = open_bundle(tiny.write_bundle(tmp_path / "plain"), allow_unsigned=True)
    contents = {name: plain.read(name) for name in plain.manifest.files}
    contents["report/evaluation.json"] = files["evaluation.json"]
    write_bundle(tmp_path / "with", plain.manifest, contents)
    shown = CliRunner().invoke(command, ["inspect", str(tmp_path / "with"), "--allow-unsigned"])
    assert shown.exit_code == 0
    assert re.search(r"evaluated on val:\s+macro-F1 0\.\d+ \[0\.\d+, 0\.\d+\], accuracy", shown.output)
    assert "worst label:" in shown.output and "gate: passed" in shown.output


@pytest.mark.parametrize(
    ("mean", "low", "high", "said"),
    [(0.75, 0.6, 0.9, None), (0.95, 0.9, 0.99, "the splits differ"), (0.9, 0.5, 0.99, "the splits may differ")],
)
def test_what_the_training_split_promises_stands_first_and_a_shift_is_named(
    bundle: Bundle, mean: float, low: float, high: float, said: str | None
) -> None:
    result = _evaluation(bundle.manifest.head.labels)
    span = Interval(mean, mean - 0.02, mean + 0.02)
    expected = Expected(span, Interval(mean, low, high), 17, 4, 900, 5, (0.7, 0.8), foretold=16, sets=17)
    findings = analyse(bundle, result, expected=expected)
    assert 0.7 < findings.intervals.figure.value < 0.8
    files = full_report(bundle, "val", result, findings)
    lead = json.loads(files["evaluation.json"])["headline"]
    assert lead[0].startswith(f"expected on new groups: macro-F1 {mean:.3f}") and f"{low:.3f} and {high:.3f}" in lead[0]
    shift = [line for line in lead if "splits" in line]
    assert (not shift) if said is None else shift[0].startswith(said)
    assert "16 times its figure lay where the rest foretold" in files["evaluation.md"].decode()
