"""The full report of one evaluation: figures with intervals, curves, calibration, rival and latency, as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from build_engines.evaluation import figures, tagging
from build_engines.evaluation.binary import Curves, curves
from build_engines.evaluation.confidence import (
    Calibration,
    RiskCoverage,
    at_temperature,
    calibration,
    judged,
    matrix,
    risk_coverage,
)
from build_engines.evaluation.degrade import Matrix
from build_engines.evaluation.evaluate import Evaluation, Prediction, by_condition, document
from build_engines.evaluation.intervals import Interval, bootstrap, interval, resamples
from build_engines.evaluation.metrics import Scores
from build_engines.evaluation.page import Cells, Section, as_html, as_markdown
from build_engines.evaluation.rival import Rivalry
from edge_runtime.bundle import Bundle
from edge_runtime.heads import Head
from edge_runtime.heads.policy import DecisionPolicy

DRAWS = 500
Draws = Sequence[np.ndarray]


class Intervals(Struct, frozen=True):
    """95 % bootstrap intervals of the decisions, and of the model alone."""

    f1_macro: Interval
    accuracy: Interval
    model_f1_macro: Interval
    model_accuracy: Interval
    classes: dict[str, Interval]
    """F1 of each label among the decisions."""


class Confidence(Struct, frozen=True):
    """Calibration on this split, as shipped and with temperature 1; fitted on the build's validation split."""

    temperature: float
    shipped: Calibration
    plain: Calibration


class Policy(Struct, frozen=True):
    """What the decision policy does: how much it answers, and how much of that is wrong."""

    answered: float
    """Share of decisions that are the model's."""
    wrong_of_answered: float
    curve: RiskCoverage
    """Of the model's own answers."""


class Latency(Struct, frozen=True):
    """Milliseconds on the machine that evaluated, one decision after another."""

    p50: float
    p99: float
    share: float
    """Of the decisions in which it ran at all."""


class Findings(Struct, frozen=True):
    """Everything that was found; which parts there are depends on the head."""

    intervals: Intervals
    confidence: Confidence | None
    policy: Policy | None
    curves: tuple[Curves, ...]
    latency_ms: dict[str, Latency]
    rival: Rivalry | None = None
    degradation: Matrix | None = None
    gate: str = ""
    """What the gate of the build line said, in a sentence."""


def analyse(
    bundle: Bundle,
    result: Evaluation,
    seed: int = 0,
    rival: Rivalry | None = None,
    degradation: Matrix | None = None,
    gate: str = "",
    draws: int = DRAWS,
) -> Findings:
    """Everything that the report says beside the plain scores."""
    manifest = bundle.manifest
    head, policy = manifest.head, manifest.decision
    known = [one for one in result.predictions if one.probabilities]
    confidence = _confidence(head, policy, known) if known else None
    return Findings(
        intervals=intervals(result, seed, draws),
        confidence=confidence,
        policy=_policy(head, result.predictions, known) if known else None,
        curves=tuple(curves(head, policy, result.predictions)),
        latency_ms=latency(result.timings),
        rival=rival,
        degradation=degradation,
        gate=gate,
    )


def intervals(result: Evaluation, seed: int, count: int = DRAWS) -> Intervals:
    """Bootstrap intervals over groups, decisions and model on the same resamples."""
    predictions = result.predictions
    drawn = resamples(tagging.judged_groups(predictions), count, seed)
    truth, answers = tagging.judged_pairs(predictions)
    said = answers if tagging.is_tagging(predictions) else [one.label for one in predictions]

    def shares(given: Sequence[str]) -> np.ndarray:
        right = np.array([a == b for a, b in zip(given, truth, strict=True)], float)
        return np.array([right[draw].mean() for draw in drawn])

    classes = {}
    for label, one in result.scores.classes.items():
        classes[label] = interval(one.f1, _class_f1(truth, said, label, drawn))
    return Intervals(
        interval(result.scores.f1_macro, bootstrap(truth, said, drawn)),
        interval(result.scores.accuracy, shares(said)),
        interval(result.model.f1_macro, bootstrap(truth, answers, drawn)),
        interval(result.model.accuracy, shares(answers)),
        classes,
    )


def _class_f1(truth: Sequence[str], said: Sequence[str], label: str, drawn: Draws) -> np.ndarray:
    """F1 of one label in each resample: 2 * right / (said + true), 0 where it does not occur."""
    is_true = np.array([one == label for one in truth])
    is_said = np.array([one == label for one in said])
    both = is_true & is_said
    found = np.zeros(len(drawn))
    for row, draw in enumerate(drawn):
        count = is_true[draw].sum() + is_said[draw].sum()
        found[row] = 2 * both[draw].sum() / count if count else 0.0
    return found


def _confidence(head: Head, policy: DecisionPolicy, known: Sequence[Prediction]) -> Confidence:
    shipped = matrix(known, head.labels)
    plain = at_temperature(head, shipped, policy.temperature, 1.0)
    return Confidence(
        policy.temperature, calibration(*judged(head, known, shipped)), calibration(*judged(head, known, plain))
    )


def _policy(head: Head, predictions: Sequence[Prediction], known: Sequence[Prediction]) -> Policy:
    answered = [one for one in predictions if one.source == "model"]
    wrong = sum(one.label != one.truth for one in answered)
    if head.kind == "softmax":
        right, confidence = judged(head, known, matrix(known, head.labels))
    else:
        right = np.array([one.label == one.truth for one in known])
        confidence = np.array([one.confidence for one in known])
    return Policy(len(answered) / len(predictions), wrong / max(1, len(answered)), risk_coverage(right, confidence))


def latency(timings: Mapping[str, Sequence[int]]) -> dict[str, Latency]:
    """p50 and p99 of every part, in milliseconds."""
    count = len(timings.get("total", ()))
    found = {}
    for name, values in timings.items():
        p50, p99 = (float(value) / 1e6 for value in np.percentile(values, (50, 99)))
        found[name] = Latency(round(p50, 4), round(p99, 4), round(len(values) / count, 4))
    return found


def headline(bundle: Bundle, result: Evaluation, found: Findings) -> list[str]:
    """The report in a few lines."""
    scores, sure = result.scores, found.intervals
    worst = min((name for name, one in scores.classes.items() if one.support), key=lambda name: scores.classes[name].f1)
    tags = tagging.is_tagging(result.predictions)
    lines = [
        f"macro-F1 {words(sure.f1_macro)}, accuracy {words(sure.accuracy)} over {scores.count} "
        f"{'words' if tags else 'decisions'}",
        tagging.headline(tagging.report_of(result.predictions))
        if tags
        else f"the model alone, without the policy: macro-F1 {words(sure.model_f1_macro)}, "
        f"accuracy {words(sure.model_accuracy)}",
        f"worst label: {worst}, F1 {words(sure.classes[worst])}, {scores.classes[worst].support} cases",
    ]
    if found.confidence is not None:
        one = found.confidence
        lines.append(
            f"expected calibration error {one.shipped.ece:.3f} (without temperature {one.plain.ece:.3f}), "
            f"Brier {one.shipped.brier:.3f} ({one.plain.brier:.3f})"
        )
    if found.degradation is not None:
        lines += [f"degradation: {line}" for line in found.degradation.verdicts]
    if found.rival is not None:
        lines.append(f"{found.rival.words} (McNemar p {found.rival.p_value:.3g})")
    if found.gate:
        lines.append(f"gate: {found.gate}")
    return lines


def words(one: Interval) -> str:
    """A figure with its interval."""
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def labelled_sections(bundle: Bundle, result: Evaluation, found: Findings) -> list[Section]:
    """What there is to say of a head with labels."""
    return [
        _classes(result.scores, found.intervals),
        Section("Confusion", picture="confusion.png", about="Confusion matrix, rows are the truth, columns the answer"),
        *_curves(found),
        *_confidence_section(found),
        *_policy_section(found),
        *_conditions(bundle, result),
        *_rival(found),
        *_degradation(found),
        _latency(found),
        *_refused(result),
    ]


def tagging_sections(bundle: Bundle, result: Evaluation, found: Findings) -> list[Section]:
    """What there is to say of a tagging head: figures are by word and by entity."""
    parts = tagging.cells(tagging.report_of(result.predictions, bundle.manifest.head.labels[0]))
    tables = [
        Section(title, (text,), Cells(*part))
        for title, text, part in zip(
            ("Tags", "Entities"),
            (tagging.cut_words(result.predictions) + ".", "Found with exactly their words and their type (seqeval)."),
            parts,
            strict=True,
        )
    ]
    return [
        *tables,
        _classes(result.scores, found.intervals),
        *_rival(found),
        *_degradation(found),
        _latency(found),
        *_refused(result),
    ]


SECTIONS: dict[str, Callable[[Bundle, Evaluation, Findings], list[Section]]] = {
    "softmax": labelled_sections,
    "sigmoid": labelled_sections,
    "tagging": tagging_sections,
}
"""Kind of head to the parts of its report."""


def _classes(scores: Scores, sure: Intervals) -> Section:
    rows = []
    for label, one in scores.classes.items():
        span = sure.classes[label]
        rows.append((label, *_three(one), f"{span.low:.3f} to {span.high:.3f}", str(one.support)))
    for name, one in scores.averages.items():
        span_words = f"{sure.f1_macro.low:.3f} to {sure.f1_macro.high:.3f}" if name == "macro" else ""
        rows.append((f"{name} average", *_three(one), span_words, str(one.support)))
    accuracy = sure.accuracy
    rows.append(
        ("accuracy", "", "", f"{accuracy.value:.3f}", f"{accuracy.low:.3f} to {accuracy.high:.3f}", str(scores.count))
    )
    return Section(
        "Per label",
        ("The decisions, policy included. Intervals are 95 % bootstrap intervals over independent groups.",),
        Cells(("label", "precision", "recall", "F1", "95 % interval", "support"), tuple(rows)),
        "classes.png",
        "F1 of each label with its interval",
    )


def _three(one: Any) -> tuple[str, str, str]:
    return f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}"


def _curves(found: Findings) -> list[Section]:
    if not found.curves:
        return []
    rows = tuple(
        (
            one.label, f"{one.auc:.3f}", f"{one.average_precision:.3f}", f"{one.prevalence:.3f}",
            f"{one.point.threshold:.2f}", f"{one.point.recall:.3f}", f"{one.point.precision:.3f}",
            f"{one.point.false_positive_rate:.3f}",
        )
        for one in found.curves
    )  # fmt: skip
    columns = (
        "label", "ROC area", "average precision", "prevalence", "threshold", "recall", "precision", "false positives",
    )  # fmt: skip
    return [Section("Operating point", (), Cells(columns, rows), "curves.png", "ROC and precision-recall curves")]


def _confidence_section(found: Findings) -> list[Section]:
    if found.confidence is None:
        return []
    one = found.confidence
    rows = (
        ("temperature 1", f"{one.plain.ece:.4f}", f"{one.plain.brier:.4f}"),
        (f"temperature {one.temperature:g} (ships)", f"{one.shipped.ece:.4f}", f"{one.shipped.brier:.4f}"),
    )
    text = "The temperature was fitted on the validation split when the model was trained; if that is the split shown"
    return [
        Section(
            "Confidence", (text + " here, the figure is a little flattering.",),
            Cells(("", "expected calibration error", "Brier score"), rows),
            "reliability.png", "Reliability diagram: share right against confidence",
        )
    ]  # fmt: skip


def _policy_section(found: Findings) -> list[Section]:
    if found.policy is None:
        return []
    one = found.policy
    text = (
        f"The policy lets the model answer {one.answered:.1%} of the decisions; {one.wrong_of_answered:.1%} of those "
        f"are wrong. The rest is the safe decision. Area under the risk-coverage curve: {one.curve.area:.4f}."
    )
    return [Section("Risk and coverage", (text,), None, "risk.png", "Share wrong against share answered")]


def _conditions(bundle: Bundle, result: Evaluation) -> list[Section]:
    parts = by_condition(result.predictions, bundle.manifest.head.labels)
    rows = tuple((name, f"{s.accuracy:.3f}", f"{s.f1_macro:.3f}", str(s.count)) for name, s in parts.items())
    return [Section("By condition", (), Cells(("condition", "accuracy", "macro-F1", "count"), rows))] if rows else []


def _rival(found: Findings) -> list[Section]:
    if found.rival is None:
        return []
    one = found.rival
    rows = (
        ("only this one right", str(one.only_this_right)),
        (f"only {one.name} right", str(one.only_rival_right)),
        ("McNemar's exact p-value", f"{one.p_value:.4g}"),
        ("the rival's accuracy", f"{one.accuracy:.3f}"),
        ("the rival's macro-F1", f"{one.f1_macro:.3f}"),
        ("difference in macro-F1", words(one.difference)),
    )
    return [Section(f"Against {one.name}", (one.words.capitalize() + ".",), Cells(("", "figure"), rows))]


def _degradation(found: Findings) -> list[Section]:
    return [] if found.degradation is None else [found.degradation.section()]


def _latency(found: Findings) -> Section:
    rows = tuple(
        (name, f"{one.p50:.3f}", f"{one.p99:.3f}", f"{one.share:.1%}") for name, one in found.latency_ms.items()
    )
    text = "Measured while evaluating, on this machine, one decision after another; a cached feature costs nothing."
    return Section("Latency", (text,), Cells(("part", "p50 ms", "p99 ms", "ran in"), rows))


def _refused(result: Evaluation) -> list[Section]:
    if not result.refused:
        return []
    rows = tuple((reason, str(count)) for reason, count in sorted(result.refused.items()))
    return [Section("Messages refused by admission", (), Cells(("stream and reason", "count"), rows))]


def pictures(result: Evaluation, found: Findings) -> dict[str, bytes]:
    """File name to PNG, for whatever there is."""
    scores, sure = result.scores, found.intervals
    support = {name: one.support for name, one in scores.classes.items()}
    drawn = {
        "classes.png": figures.class_intervals(sure.classes, support, sure.f1_macro),
        "confusion.png": figures.confusion(scores),
    }
    if found.confidence is not None:
        drawn["reliability.png"] = figures.reliability(found.confidence.shipped, found.confidence.plain)
    if found.policy is not None:
        lines = {"this model": found.policy.curve}
        point = (found.policy.answered, found.policy.wrong_of_answered)
        drawn["risk.png"] = figures.risk_coverage(
            lines, point, found.degradation.points() if found.degradation is not None else ()
        )
    if found.curves:
        drawn["curves.png"] = figures.curves(found.curves)
    if found.degradation is not None:
        drawn["degradation.png"] = found.degradation.picture()
    return drawn


def full_report(
    bundle: Bundle, split: str, result: Evaluation, found: Findings, stem: str = "evaluation"
) -> dict[str, bytes]:
    """File name to contents: `<stem>.json`, `.md`, `.html` and the pictures."""
    manifest = bundle.manifest
    title = f"{manifest.name} {manifest.version} on {split}"
    drawn = pictures(result, found)
    sections = [
        section if section.picture in drawn else msgspec.structs.replace(section, picture="")
        for section in SECTIONS[manifest.head.kind](bundle, result, found)
    ]
    lead = headline(bundle, result, found)
    shown = {section.picture: drawn[section.picture] for section in sections if section.picture}
    modalities = {} if found.degradation is None else found.degradation.subsets()
    written = msgspec.json.encode(document(bundle, split, result, modalities) | {"headline": lead, "findings": found})
    return {
        f"{stem}.json": msgspec.json.format(written, indent=1) + b"\n",
        f"{stem}.md": as_markdown(title, lead, sections).encode(),
        f"{stem}.html": as_html(title, lead, sections, shown).encode(),
        **shown,
    }
