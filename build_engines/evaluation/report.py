"""The full report of one evaluation: figures with intervals, curves, calibration, rival and latency, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Struct

from build_engines.evaluation import figures, gallery
from build_engines.evaluation.binary import Curves, curves
from build_engines.evaluation.confidence import Calibration, RiskCoverage, calibration, risk_coverage
from build_engines.evaluation.degrade import Matrix
from build_engines.evaluation.evaluate import Evaluation, by_condition, document
from build_engines.evaluation.gallery import Mistake
from build_engines.evaluation.page import Cells, Section, as_html, as_markdown
from build_engines.evaluation.rival import Rivalry
from build_engines.heads.expected import Expected
from build_engines.heads.intervals import Interval, independent, interval, resamples
from build_engines.heads.kind import Pairs
from build_engines.heads.labelled import LabelHead, OneLabelBuild, matrix
from build_engines.heads.metrics import Scores
from build_engines.heads.prediction import Prediction
from edge_runtime.bundle import Bundle
from edge_runtime.heads.policy import DecisionPolicy

DRAWS = 500


class Intervals(Struct, frozen=True):
    """95 % bootstrap intervals of the decisions, and of the model alone."""

    figure: Interval
    """What the head is judged by: macro-F1 of one with labels."""
    accuracy: Interval
    model_figure: Interval
    model_accuracy: Interval
    parts: dict[str, Interval]
    """Each part's own figure among the decisions: F1 of each label."""


class Confidence(Struct, frozen=True):
    """Calibration on this split, as shipped and with temperature 1."""

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
    expected: Expected | None = None
    """On new groups, from what was left out of the training; None where nothing was."""


def analyse(
    bundle: Bundle,
    result: Evaluation,
    seed: int = 0,
    rival: Rivalry | None = None,
    degradation: Matrix | None = None,
    gate: str = "",
    draws: int = DRAWS,
    expected: Expected | None = None,
) -> Findings:
    """Everything that the report says beside the plain scores."""
    policy = bundle.manifest.decision
    scored = [prediction for prediction in result.predictions if prediction.probabilities]
    return Findings(
        intervals=intervals(result, seed, draws),
        confidence=_confidence(result, policy, scored),
        policy=_policy(result, scored),
        curves=tuple(curves(result.head, policy, result.predictions)),
        latency_ms=latency(result.timings),
        rival=rival,
        degradation=degradation,
        gate=gate,
        expected=expected,
    )


def intervals(result: Evaluation, seed: int, count: int = DRAWS) -> Intervals:
    """Bootstrap intervals over groups, decisions and model on the same resamples."""
    decided, own = result.pairs(), result.pairs(model=True)
    drawn, units = resamples(decided.groups, count, seed), independent(decided.groups)

    def shares(pairs: Pairs) -> Interval:
        right = pairs.right().astype(float)
        return interval(pairs.scores.accuracy, np.array([right[draw].mean() for draw in drawn]), units)

    resampled = decided.part_bootstrap(drawn)
    return Intervals(
        interval(decided.scores.figure, decided.bootstrap(drawn), units),
        shares(decided),
        interval(own.scores.figure, own.bootstrap(drawn), units),
        shares(own),
        {name: interval(value, resampled[name], units) for name, value in decided.scores.parts.items()},
    )


def _confidence(result: Evaluation, policy: DecisionPolicy, scored: Sequence[Prediction]) -> Confidence | None:
    head, build = result.head, result.build
    if not scored or not isinstance(head, LabelHead) or not isinstance(build, OneLabelBuild):
        return None
    shipped = matrix(scored, head.labels)
    plain = build.at_temperature(shipped, policy.temperature, 1.0)
    return Confidence(
        policy.temperature,
        calibration(*build.confidences(head, scored, shipped)),
        calibration(*build.confidences(head, scored, plain)),
    )


def _policy(result: Evaluation, scored: Sequence[Prediction]) -> Policy | None:
    head, build = result.head, result.build
    if not scored or not isinstance(build, OneLabelBuild):
        return None
    answered = [prediction for prediction in result.predictions if prediction.source == "model"]
    wrong = sum(not build.is_right(head, prediction) for prediction in answered)
    return Policy(
        len(answered) / len(result.predictions),
        wrong / max(1, len(answered)),
        risk_coverage(*build.answer_confidences(head, scored)),
    )


def latency(timings: Mapping[str, Sequence[int]]) -> dict[str, Latency]:
    """p50 and p99 of every part, in milliseconds."""
    count = len(timings.get("total", ()))
    parts = {}
    for name, values in timings.items():
        p50, p99 = (float(value) / 1e6 for value in np.percentile(values, (50, 99)))
        parts[name] = Latency(round(p50, 4), round(p99, 4), round(len(values) / count, 4))
    return parts


def headline(bundle: Bundle, result: Evaluation, findings: Findings) -> list[str]:
    """The report in a few lines."""
    sure, build, worst = findings.intervals, result.build, result.scores.worst
    lines = [
        *_promise(build.figure, findings),
        f"{build.figure} {words(sure.figure)}, accuracy {words(sure.accuracy)} "
        f"over {result.scores.count} {build.judged}",
        *(
            build.headline(result.head, result.predictions)
            or [
                f"the model alone, without the policy: {build.figure} {words(sure.model_figure)}, "
                f"accuracy {words(sure.model_accuracy)}"
            ]
        ),
        f"worst {build.part}: {worst}, {build.part_figure} {words(sure.parts[worst])}, "
        f"{result.scores.support[worst]} cases",
        *(
            f"side head {name}: {side.build.figure} {side.scores.figure:.3f}, accuracy {side.scores.accuracy:.3f}"
            for name, side in result.side.items()
        ),
    ]
    if findings.confidence is not None:
        confidence = findings.confidence
        lines.append(
            f"expected calibration error {confidence.shipped.ece:.3f} (without temperature "
            f"{confidence.plain.ece:.3f}), Brier {confidence.shipped.brier:.3f} ({confidence.plain.brier:.3f})"
        )
    if findings.degradation is not None:
        lines += [f"degradation: {line}" for line in findings.degradation.verdicts]
    if findings.rival is not None:
        lines.append(f"{findings.rival.words} (McNemar p {findings.rival.p_value:.3g})")
    if findings.gate:
        lines.append(f"gate: {findings.gate}")
    return lines


def _promise(figure: str, findings: Findings) -> list[str]:
    """What to expect elsewhere, and whether this split is what the training split promised."""
    expected, here = findings.expected, findings.intervals.figure
    if expected is None:
        return []
    lines = [
        f"expected on new groups: {figure} {words(expected.mean)}; the next {expected.next_groups} of them between "
        f"{expected.next.low:.3f} and {expected.next.high:.3f} (95 %; from {expected.moments} moments of "
        f"{expected.groups} groups of the training split, each decided by a model that did not see its fold)"
    ]
    if not expected.next.low <= here.value <= expected.next.high:
        lines.append(
            f"the splits differ: {figure} here is {here.value:.3f}, outside what the training split's own groups "
            f"promise; new data may be like either"
        )
    elif not (here.low <= expected.mean.value <= here.high or expected.mean.low <= here.value <= expected.mean.high):
        lines.append(
            f"the splits may differ: {figure} here ({words(here)}) and that expected from the training split lie "
            f"outside each other's interval"
        )
    return lines


def words(figure: Interval) -> str:
    """A figure with its interval."""
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def sections(bundle: Bundle, result: Evaluation, findings: Findings) -> list[Section]:
    """What there is to say, whatever the head."""
    return [
        *_expected(result, findings),
        *(
            Section(section.title, (section.text,), Cells(section.columns, section.rows))
            for section in result.build.sections(result.head, result.predictions)
        ),
        _parts(result, findings.intervals),
        *_confusion(result),
        *_curves(findings),
        *_confidence_section(findings),
        *_policy_section(findings),
        *_conditions(result),
        *_side_heads(result),
        *_rival(findings),
        *_degradation(findings),
        _latency(findings),
        *_refused(result),
    ]


def _expected(result: Evaluation, findings: Findings) -> list[Section]:
    expected = findings.expected
    if expected is None:
        return []
    figure = result.build.figure
    rows = (
        ("on new groups", f"{expected.mean.value:.3f}", f"{expected.mean.low:.3f} to {expected.mean.high:.3f}"),
        (
            f"in the next {expected.next_groups} groups", f"{expected.mean.value:.3f}",
            f"{expected.next.low:.3f} to {expected.next.high:.3f}",
        ),
        *((f"fold {place}", f"{value:.3f}", "") for place, value in enumerate(expected.fold_figures, 1)),
    )  # fmt: skip
    text = (
        f"The training split's {expected.groups} groups were left out in {expected.folds} folds; everything that is "
        "chosen or fitted was so without the fold that is judged. The second interval is the one for a set of new "
        "groups as large as this split: single groups differ, and so do trainings. A model that learned from all of "
        "the training split may be a little better than those that lacked a fold."
    )
    proof = (
        f"The promise was tried: {expected.sets} times, a part of these groups was left out of the calculation, and "
        f"{expected.foretold} times its figure lay where the rest foretold (95 % are promised)."
    )
    told = (text, proof) if expected.sets else (text,)
    return [Section("What to expect on new data", told, Cells(("", figure, "95 % interval"), rows))]


def _parts(result: Evaluation, sure: Intervals) -> Section:
    scores, build = result.scores, result.build
    rows = []
    for name, cells in scores.rows.items():
        span = sure.parts.get(name)
        interval_words = "" if span is None else f"{span.low:.3f} to {span.high:.3f}"
        if name == "macro average":
            interval_words = f"{sure.figure.low:.3f} to {sure.figure.high:.3f}"
        rows.append((name, *cells, interval_words, str(scores.support.get(name, scores.count))))
    accuracy = sure.accuracy
    blank = ("",) * (len(build.columns) - 1)
    span_words = f"{accuracy.low:.3f} to {accuracy.high:.3f}"
    rows.append(("accuracy", *blank, f"{accuracy.value:.3f}", span_words, str(scores.count)))
    return Section(
        f"Per {build.part}",
        ("The decisions, policy included. Intervals are 95 % bootstrap intervals over independent groups.",),
        Cells((build.part, *build.columns, "95 % interval", "support"), tuple(rows)),
        "classes.png",
        f"{build.part_figure} of each {build.part} with its interval",
    )


def _confusion(result: Evaluation) -> list[Section]:
    about = "Confusion matrix, rows are the truth, columns the answer"
    shown = isinstance(result.build, OneLabelBuild)
    return [Section("Confusion", picture="confusion.png", about=about)] if shown else []


def _side_heads(result: Evaluation) -> list[Section]:
    """The heads beside the first, in short."""
    rows = tuple(
        (name, side.head.kind, side.build.figure, f"{side.scores.figure:.3f}", f"{side.scores.accuracy:.3f}")
        for name, side in result.side.items()
    )
    text = "Told with every decision; nothing acts on them. The gate holds them to the same limits."
    columns = ("head", "kind", "figure", "value", "accuracy")
    return [Section("Side heads", (text,), Cells(columns, rows))] if rows else []


def _curves(findings: Findings) -> list[Section]:
    if not findings.curves:
        return []
    rows = tuple(
        (
            curve.label, f"{curve.auc:.3f}", f"{curve.average_precision:.3f}", f"{curve.prevalence:.3f}",
            f"{curve.point.threshold:.2f}", f"{curve.point.recall:.3f}", f"{curve.point.precision:.3f}",
            f"{curve.point.false_positive_rate:.3f}",
        )
        for curve in findings.curves
    )  # fmt: skip
    columns = (
        "label", "ROC area", "average precision", "prevalence", "threshold", "recall", "precision", "false positives",
    )  # fmt: skip
    return [Section("Operating point", (), Cells(columns, rows), "curves.png", "ROC and precision-recall curves")]


def _confidence_section(findings: Findings) -> list[Section]:
    if findings.confidence is None:
        return []
    confidence = findings.confidence
    rows = (
        ("temperature 1", f"{confidence.plain.ece:.4f}", f"{confidence.plain.brier:.4f}"),
        (
            f"temperature {confidence.temperature:g} (ships)",
            f"{confidence.shipped.ece:.4f}",
            f"{confidence.shipped.brier:.4f}",
        ),
    )
    text = (
        "The temperature was fitted to moments left out of training."
        if findings.expected is not None
        else "The temperature was fitted on the validation split when the model was trained, or to moments left out of "
        "training; if the former is the split shown here, the figure is a little flattering."
    )
    return [
        Section(
            "Confidence", (text,),
            Cells(("", "expected calibration error", "Brier score"), rows),
            "reliability.png", "Reliability diagram: share right against confidence",
        )
    ]  # fmt: skip


def _policy_section(findings: Findings) -> list[Section]:
    if findings.policy is None:
        return []
    policy = findings.policy
    text = (
        f"The policy lets the model answer {policy.answered:.1%} of the decisions; {policy.wrong_of_answered:.1%} of "
        f"those are wrong. The rest is the safe decision. Area under the risk-coverage curve: {policy.curve.area:.4f}."
    )
    return [Section("Risk and coverage", (text,), None, "risk.png", "Share wrong against share answered")]


def _conditions(result: Evaluation) -> list[Section]:
    parts = by_condition(result)
    rows = tuple((name, f"{s.accuracy:.3f}", f"{s.figure:.3f}", str(s.count)) for name, s in parts.items())
    columns = ("condition", "accuracy", result.build.figure, "count")
    return [Section("By condition", (), Cells(columns, rows))] if rows else []


def _rival(findings: Findings) -> list[Section]:
    if findings.rival is None:
        return []
    rival = findings.rival
    rows = (
        ("only this one right", str(rival.only_this_right)),
        (f"only {rival.name} right", str(rival.only_rival_right)),
        ("McNemar's exact p-value", f"{rival.p_value:.4g}"),
        ("the rival's accuracy", f"{rival.accuracy:.3f}"),
        (f"the rival's {rival.figure_name}", f"{rival.figure:.3f}"),
        (f"difference in {rival.figure_name}", words(rival.difference)),
    )
    return [Section(f"Against {rival.name}", (rival.words.capitalize() + ".",), Cells(("", "figure"), rows))]


def _degradation(findings: Findings) -> list[Section]:
    return [] if findings.degradation is None else [findings.degradation.section()]


def _latency(findings: Findings) -> Section:
    rows = tuple(
        (name, f"{times.p50:.3f}", f"{times.p99:.3f}", f"{times.share:.1%}")
        for name, times in findings.latency_ms.items()
    )
    text = "Measured while evaluating, on this machine, one decision after another; a cached feature costs nothing."
    return Section("Latency", (text,), Cells(("part", "p50 ms", "p99 ms", "ran in"), rows))


def _refused(result: Evaluation) -> list[Section]:
    if not result.refused:
        return []
    rows = tuple((reason, str(count)) for reason, count in sorted(result.refused.items()))
    return [Section("Messages refused by admission", (), Cells(("stream and reason", "count"), rows))]


def pictures(result: Evaluation, findings: Findings) -> dict[str, bytes]:
    """File name to PNG, for whatever there is."""
    scores, sure = result.scores, findings.intervals
    build = result.build
    drawn = {
        "classes.png": figures.part_intervals(
            sure.parts, scores.support, build.part_figure, sure.figure if build.mean_of_parts else None
        )
    }
    if isinstance(scores, Scores) and isinstance(build, OneLabelBuild):
        drawn["confusion.png"] = figures.confusion(scores)
    if findings.confidence is not None:
        drawn["reliability.png"] = figures.reliability(findings.confidence.shipped, findings.confidence.plain)
    if findings.policy is not None:
        lines = {"this model": findings.policy.curve}
        point = (findings.policy.answered, findings.policy.wrong_of_answered)
        drawn["risk.png"] = figures.risk_coverage(
            lines, point, findings.degradation.points() if findings.degradation is not None else ()
        )
    if findings.curves:
        drawn["curves.png"] = figures.curves(findings.curves)
    if findings.degradation is not None:
        drawn["degradation.png"] = findings.degradation.picture()
    return drawn


def full_report(
    bundle: Bundle,
    split: str,
    result: Evaluation,
    findings: Findings,
    stem: str = "evaluation",
    mistakes: Sequence[Mistake] = (),
) -> dict[str, bytes]:
    """File name to contents: `<stem>.json`, `.md`, `.html` and the pictures. `mistakes`: those to be shown."""
    manifest = bundle.manifest
    title = f"{manifest.name} {manifest.version} on {split}"
    drawn = pictures(result, findings) | ({gallery.FILE: gallery.sheet(mistakes)} if mistakes else {})
    shown_sections = [
        section if section.picture in drawn else msgspec.structs.replace(section, picture="")
        for section in (*sections(bundle, result, findings), *gallery.section(mistakes))
    ]
    lead = headline(bundle, result, findings)
    shown = {section.picture: drawn[section.picture] for section in shown_sections if section.picture}
    modalities = {} if findings.degradation is None else findings.degradation.subsets()
    written = msgspec.json.encode(
        document(bundle, split, result, modalities) | {"headline": lead, "findings": findings}
    )
    return {
        f"{stem}.json": msgspec.json.format(written, indent=1) + b"\n",
        f"{stem}.md": as_markdown(title, lead, shown_sections).encode(),
        f"{stem}.html": as_html(title, lead, shown_sections, shown).encode(),
        **shown,
    }
