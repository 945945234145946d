"""A small file in CoNLL's form, by its path alone, through the line: train, signed bundle, report, live tags."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
import zmq

from build_engines.comparison.classical_tagging import classical_tags
from build_engines.data.ner import sentences
from build_engines.heads.tagging import report
from edge_runtime import Subscriber, schema
from edge_runtime.bundle import open_bundle
from edge_runtime.messages import Utterance
from edge_runtime.pipeline import Pipeline
from edge_runtime.runtime import Runtime
from edge_runtime.wire import DecisionMessage
from tests.build_engines.calling import call
from tests.conftest import WAIT_S, running, tiny_config

RECIPE = """
name = "small-ner"
version = "1.0.0"
layout = "ner"
head = "tagging"
labels = []
trigger = "text"

[streams.text]
kind = "text"
max_tokens = 8
word_pieces = 6
max_age_ms = 5000.0

[decision]
safe_label = "O"
heartbeat_ms = 100.0

[model]
features = 16
[model.text]
stream = "text"
kind = "words"
width = 32
dropout = 0.0
token_dropout = 0.0
[model.fusion]
kind = "tagger"
width = 16
dropout = 0.0

[tokenizer]
vocabulary = 300
keep_case = true

[calibrate]
samples = 32
duplicates = 0.3

[quantise]
stages = ["text"]

[gate]
min_gain = 0.01
class_drop = 0.2

[compile]
targets = []

[train]
epochs = 10
batch = 16
learning_rate = 1e-2
average = 0.8
label_smoothing = 0.0
class_balance = 0.0
words = { swap = 0.3, respell = 0.2, case = 0.0 }
"""
FIRST = ("Anna", "Omar", "Lena", "Tomas", "Ines", "Viktor")
LAST = ("Berg", "Castillo", "Novak", "Okafor", "Lindt")
PLACES = ("Oslo", "Lisbon", "Nairobi", "Kyoto", "Quito")


def write_conll(path: Path, count: int) -> None:
    """Sentences in CoNLL-2003's four columns and IOB1, as it was published."""
    rng = np.random.default_rng(5)
    lines = ["-DOCSTART- -X- O O", ""]
    for _ in range(count):
        person = [FIRST[rng.integers(6)], LAST[rng.integers(5)]][: rng.integers(1, 3)]
        place = PLACES[rng.integers(5)]
        moved = ["went", "flew", "drove"][rng.integers(3)]
        words = [*((word, "I-PER") for word in person), (moved, "O"), ("to", "O"), (place, "I-LOC")]
        words += [(["today", "again", "."][rng.integers(3)], "O")]
        lines += [f"{word} NN I-NP {tag}" for word, tag in words] + [""]
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ner")
    (folder / "recipe.toml").write_text(RECIPE)
    write_conll(folder / "news.conll", 250)
    with pytest.MonkeyPatch.context() as patch:
        places = ("--data", folder / "news.conll", "--out", folder / "out", "--work", folder / "work")
        assert call(patch, "run", folder / "recipe.toml", *places) == 0
    return folder


def test_the_bundle_is_signed_and_its_tags_come_from_the_data(built: Path) -> None:
    bundle = open_bundle(built / "out" / "small-ner", [built / "out" / "small-ner.pem"])
    manifest = bundle.manifest
    assert manifest.head.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert [stage.name for stage in manifest.stages] == ["text", "fusion"]
    assert all({"fp32", "fp16"} <= set(stage.files) for stage in manifest.stages)
    assert "int8" in manifest.stages[0].files
    report = json.loads(bundle.read("report/evaluation.json"))
    assert report["tagging"]["micro"]["support"] == report["scores"]["count"] > 200
    assert report["tagging"]["spans_micro"]["f1"] > 0.95
    # Some sentences came by chance in both parts.
    covered = re.search(r"without (\d+) that are also evaluated", bundle.read("report/calibration.md").decode())
    assert covered is not None and int(covered[1]) > 0
    markdown = bundle.read("report/evaluation.md").decode()
    assert "| B-PER |" in markdown and "| weighted avg |" in markdown and "| entity, exact span |" in markdown


def test_evaluate_prints_a_row_per_tag_and_the_averages(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = tmp_path / "decisions.jsonl"
    arguments = ("--bundle", built / "out" / "small-ner", "--data", built / "news.conll", "--allow-unsigned")
    assert call(monkeypatch, "evaluate", *arguments, "--predictions", lines) == 0
    printed = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    firsts = [words[0] for words in printed if len(words) >= 5]
    assert firsts.index("B-LOC") < firsts.index("B-PER") < firsts.index("I-PER") < firsts.index("O")
    assert {("micro", "avg"), ("macro", "avg"), ("weighted", "avg")} <= {tuple(words[:2]) for words in printed}
    for line in lines.read_text().splitlines():
        one = json.loads(line)
        assert len(one["tags"]) == len(one["truth_tags"])


def test_cached_and_uncached_tags_are_equal(built: Path) -> None:
    bundle = open_bundle(built / "out" / "small-ner", allow_unsigned=True)
    said = []
    for cache in (True, False):
        pipeline = Pipeline(bundle, cache=cache)
        for at in (1, 2):
            pipeline.add(Utterance("text", at, at, f"Anna Berg went to {PLACES[at]} ."))
            said += [pipeline.decide(at, at).verdict, pipeline.decide(at, at).verdict]
        pipeline.close()
    assert said[:4] == said[4:]
    assert said[0] == said[1] and said[0].tags[:2] == ("B-PER", "I-PER") and said[0].tags[4] == "B-LOC"


def test_a_live_runtime_publishes_a_tag_per_word(built: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema.path("decision").read_text()))
    wanted = {"Omar flew to Kyoto today": 5, "to  to to to to to to to to Lisbon": 10}
    with running(Runtime(tiny_config(built / "out" / "small-ner"))) as runtime, zmq.Context() as context:
        subscriber = Subscriber(runtime.decisions_endpoint, timeout_s=WAIT_S)
        socket = context.socket(zmq.PUSH)
        socket.connect(runtime.input_endpoints[0])
        for text, count in wanted.items():
            socket.send_json({"schema": 1, "stream": "text", "text": text, "id": text})
            while True:
                message = subscriber.receive(WAIT_S)
                assert message is not None
                if isinstance(message, DecisionMessage) and message.inputs["text"].id == text:
                    break
            validator.validate(msgspec.to_builtins(message))
            assert (len(message.tags), message.source) == (count, "model")
            if count > 8:
                assert message.tags[8:] == ["O", "O"] and message.reason == "only the first 8 of 10 words were read"
            else:
                assert message.tags == ["B-PER", "O", "O", "B-LOC", "O"]
        socket.close(linger=0)
        subscriber.close()


def test_the_classical_tagger_learns_it_too(built: Path) -> None:
    train, val = sentences(built / "news.conll", "train"), sentences(built / "news.conll", "val")
    said = classical_tags([(one.words, one.tags) for one in train], [(one.words, one.tags) for one in val])
    found = report([one.tags for one in val], said)
    assert found.spans_micro.f1 > 0.95


def test_the_report_counts_words_as_scikit_learn_and_entities_by_exact_span() -> None:
    truth = [("B-a", "I-a", "O", "B-b"), ("O", "O")]
    said = [("B-a", "O", "O", "B-b"), ("B-b", "O")]
    found = report(truth, said)
    assert found.micro.f1 == pytest.approx(4 / 6)
    assert list(found.tags) == ["B-a", "I-a", "B-b", "O"]
    assert (found.tags["B-b"].precision, found.tags["B-b"].recall) == (0.5, 1.0)
    assert found.micro_named.precision == pytest.approx(2 / 3) and found.micro_named.recall == pytest.approx(2 / 3)
    assert found.macro.f1 == pytest.approx(np.mean([one.f1 for one in found.tags.values()]))
    # The cut span counts for nothing; b is found once too often.
    assert (found.spans["a"].f1, found.spans_micro.precision, found.spans_micro.recall) == (0.0, 1 / 3, 0.5)
    assert report([("O",)], [("O",)]).spans_micro.support == 0
