"""Which precision each stage is given, by what it costs on the task.

Every stage is tried in FP16, and where the recipe allows it in INT8 with each way of choosing ranges; every block of a
quantised stage is tried alone. The cheapest form that stays within the gate's limits is taken, stage by stage; then
the whole plan is tried, and precision is given back where the sum of small losses is too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from onnx import ModelProto

from build_engines.graphs import serialised
from build_engines.quantisation.bank import Bank, Outcome, Variant
from build_engines.quantisation.half import to_half
from build_engines.quantisation.oracle import Proof
from build_engines.quantisation.quantise import Site, quantise
from build_engines.recipe import GateRecipe, QuantiseRecipe

WHOLE = "(whole stage)"


class SensitivityRow(Struct, frozen=True):
    """One line of the evidence: a part of the model in another precision, the rest as it was."""

    stage: str
    block: str
    precision: str
    figure: float
    loss: float
    """Of the figure, against FP32."""
    logits_error: float
    """Mean over the moments of |logits - FP32's| / |FP32's|."""
    bytes: int
    """Of the stage's graph."""


class StageChoice(Struct, frozen=True):
    """What one stage is given."""

    precision: str
    method: str = ""
    """How its activation ranges were chosen, for INT8."""
    left_out: tuple[str, ...] = ()
    """Blocks of it that stay in FP16."""


class Sensitivity(Struct, frozen=True):
    """`plan.json`: the plan and the evidence for it."""

    moments: int
    fp32_figure: float
    choices: dict[str, StageChoice]
    rows: tuple[SensitivityRow, ...]
    reasons: tuple[str, ...]
    """How the plan was chosen, in words."""
    oracle: dict[str, Proof] = {}
    """Stage to what was proven of the INT8 that ONNX Runtime computes."""

    @property
    def plan(self) -> dict[str, str]:
        """Stage to precision."""
        return {name: choice.precision for name, choice in self.choices.items()}


@dataclass
class Subject:
    """A stage under examination."""

    name: str
    model: ModelProto
    """FP32, prepared."""
    sites: Sequence[Site]
    """What may be quantised; empty = nothing."""
    thresholds: Mapping[str, Mapping[str, float]]
    """Method to activation to the largest value to represent."""
    largest: Mapping[str, float]
    """Largest absolute value per tensor, for what would overflow in FP16."""
    graphs: dict[str, bytes] = field(default_factory=dict)
    """Precision to the graph that is kept."""


class Examiner:
    """Builds variants, runs them through the bank, and keeps the table. One thread."""

    def __init__(self, bank: Bank, subjects: Sequence[Subject], quantise: QuantiseRecipe, gate: GateRecipe) -> None:
        self._bank = bank
        self._subjects = {subject.name: subject for subject in subjects}
        self._recipe = quantise
        self._gate = gate
        self._rows: list[SensitivityRow] = []
        self._reasons: list[str] = []
        self._exact = {s.name: Variant("fp32", serialised(s.model), "fp32") for s in subjects}
        self._reference = bank.outcome(self._exact)
        self._losses: dict[tuple[str, str], tuple[float, float]] = {}

    def examine(self) -> Sensitivity:
        """The plan, with every subject's graphs filled in."""
        choices = {name: self._stage(subject) for name, subject in self._subjects.items()}
        choices = self._together(choices)
        return Sensitivity(
            moments=len(self._reference.logits),
            fp32_figure=self._reference.scores.figure,
            choices=choices,
            rows=tuple(self._rows),
            reasons=tuple(self._reasons),
        )

    def _stage(self, subject: Subject) -> StageChoice:
        if subject.name not in self._bank.fed:
            subject.graphs = {"fp32": self._exact[subject.name].model}
            self._reasons.append(f"{subject.name}: no moment that is evaluated feeds it; it stays in FP32")
            return StageChoice("fp32")
        half = serialised(to_half(subject.model, subject.largest))
        subject.graphs = {"fp32": self._exact[subject.name].model, "fp16": half}
        in_half = self._try(subject, WHOLE, "fp16", half, "fp16")
        if subject.sites:
            choice = self._integer(subject, len(half))
            if choice is not None:
                return choice
        if self._fits(in_half):
            return StageChoice("fp16")
        self._reasons.append(f"{subject.name}: FP16 loses too much ({self._loss_words(in_half)}); it stays in FP32")
        return StageChoice("fp32")

    def _integer(self, subject: Subject, half_bytes: int) -> StageChoice | None:
        """INT8 in its best form, its graph kept in any case; None if the stage should not have it."""
        tried: dict[str, tuple[Outcome, bytes]] = {}
        for method in self._recipe.methods:
            graph = self._quantised(subject, method, subject.sites)
            tried[method] = (self._try(subject, WHOLE, f"int8 {method}", graph, "int8"), graph)
        best = min(tried, key=lambda method: self._rank(tried[method][0]))
        outcome, graph = tried[best]
        subject.graphs["int8"] = graph
        blocks = list(dict.fromkeys(site.block for site in subject.sites))
        alone: dict[str, Outcome] = {}
        if len(blocks) > 1:
            for block in blocks:
                sites = [site for site in subject.sites if site.block == block]
                alone[block] = self._try(subject, block, f"int8 {best}", self._quantised(subject, best, sites), "int8")
        if len(graph) > (1 - self._gate.min_gain) * half_bytes:
            self._reasons.append(f"{subject.name}: INT8 is not smaller than FP16 ({len(graph)} of {half_bytes} bytes)")
            return None
        if self._fits(outcome):
            self._reasons.append(f"{subject.name}: INT8 with {best} ranges, {self._loss_words(outcome)}")
            return StageChoice("int8", best)
        worst_first = sorted(alone, key=lambda block: self._rank(alone[block]), reverse=True)
        for count in range(1, len(worst_first) // 2 + 1):
            left_out = tuple(worst_first[:count])
            graph = self._quantised(subject, best, [site for site in subject.sites if site.block not in left_out])
            if len(graph) > (1 - self._gate.min_gain) * half_bytes:
                break
            outcome = self._try(subject, f"without {', '.join(left_out)}", f"int8 {best}", graph, "int8")
            if self._fits(outcome):
                subject.graphs["int8"] = graph
                words = f"{self._loss_words(outcome)} with {', '.join(left_out)} in FP16"
                self._reasons.append(f"{subject.name}: INT8 with {best} ranges, {words}")
                return StageChoice("int8", best, left_out)
        self._reasons.append(f"{subject.name}: INT8 loses too much ({self._loss_words(tried[best][0])})")
        return None

    def _together(self, choices: dict[str, StageChoice]) -> dict[str, StageChoice]:
        """Give precision back, the costliest stage first, until the whole plan is within the limits."""
        while True:
            plan = {name: self._variant(name, choice) for name, choice in choices.items()}
            outcome = self._bank.outcome(plan)
            total = sum(len(variant.model) for variant in plan.values())
            words = ", ".join(f"{name} {choice.precision}" for name, choice in choices.items())
            self._row("(all stages)", words, "plan", outcome, total)
            if self._fits(outcome):
                self._reasons.append(f"together: {self._loss_words(outcome)} with {words}")
                return choices
            reduced = [name for name, choice in choices.items() if choice.precision != "fp32"]
            if not reduced:
                return choices
            worst = max(reduced, key=lambda name: self._losses[name, choices[name].precision])
            lower = {"int8": "fp16", "fp16": "fp32"}[choices[worst].precision]
            self._reasons.append(f"together: {self._loss_words(outcome)} is too much; {worst} goes back to {lower}")
            choices = choices | {worst: StageChoice(lower)}

    def _variant(self, name: str, choice: StageChoice) -> Variant:
        graph = self._subjects[name].graphs[choice.precision]
        label = "fp32" if choice.precision == "fp32" else f"{choice.precision} chosen"
        return Variant(label, graph, choice.precision)

    def _quantised(self, subject: Subject, method: str, sites: Sequence[Site]) -> bytes:
        quantised = quantise(subject.model, subject.thresholds[method], sites)
        return serialised(to_half(quantised, subject.largest))

    def _try(self, subject: Subject, block: str, name: str, graph: bytes, precision: str) -> Outcome:
        variants = self._exact | {subject.name: Variant(f"{name} {block}", graph, precision)}
        outcome = self._bank.outcome(variants)
        self._row(subject.name, block, name, outcome, len(graph))
        if block == WHOLE or block.startswith("without "):
            loss = (self._reference.scores.figure - outcome.scores.figure, outcome.error(self._reference))
            smallest = self._losses.get((subject.name, precision))
            self._losses[subject.name, precision] = loss if smallest is None else min(smallest, loss)
        return outcome

    def _row(self, stage: str, block: str, precision: str, outcome: Outcome, size: int) -> None:
        figure = outcome.scores.figure
        loss = self._reference.scores.figure - figure
        self._rows.append(SensitivityRow(stage, block, precision, figure, loss, outcome.error(self._reference), size))

    def _rank(self, outcome: Outcome) -> tuple[float, float]:
        return (self._reference.scores.figure - outcome.scores.figure, outcome.error(self._reference))

    def _fits(self, outcome: Outcome) -> bool:
        return not any(
            before.lost(outcome.scores_of[name], self._gate) for name, before in self._reference.scores_of.items()
        )

    def _loss_words(self, outcome: Outcome) -> str:
        before, after = self._reference.scores, outcome.scores
        error = outcome.error(self._reference)
        return f"{self._bank.figure} {before.figure:.4f} -> {after.figure:.4f}, logits off by {error:.2%}"
