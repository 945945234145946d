"""How plans are judged, on a small real bundle; how one that loses too much gives precision back, by a table made by
hand; and what is said where it cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from build_engines import progress
from build_engines.compile import ENGINES
from build_engines.gate import judge as gate
from build_engines.gate.judge import Judge
from build_engines.gate.limits import LOGITS, VERDICT, Agreement, Judged, Verdict
from build_engines.gate.on_tensorrt import Gpu
from build_engines.heads.intervals import Interval
from build_engines.quantisation.sensitivity import Sensitivity, SensitivityRow, StageChoice
from build_engines.recipe import GateRecipe
from build_engines.recipe.budget import BudgetRecipe, TargetBudget
from calibration.moments import LabelledSet, RawMessage
from edge_runtime import bundle as bundles
from edge_runtime.bundle import Bundle, SideHead, encode_manifest, open_bundle
from edge_runtime.errors import EngineError, GateRefused
from edge_runtime.heads.policy import DecisionPolicy
from edge_runtime.heads.softmax import SoftmaxHead
from edge_runtime.infer import ON_CPU
from edge_runtime.infer.timing import measure, write_times
from edge_runtime.messages import Words
from tests import tiny

SURE = Interval(0.9, 0.8, 1.0)
FILES = {
    "vision": {"fp32": "v32", "fp16": "v16", "int8": "v8"},
    "text": {"fp32": "t32", "int8": "t8"},
    "fusion": {"fp32": "f32", "fp16": "f16"},
}
MANIFEST: Any = SimpleNamespace(stages=[SimpleNamespace(name=name, files=files) for name, files in FILES.items()])


def row(stage: str, precision: str, loss: float, error: float = 0.0) -> SensitivityRow:
    return SensitivityRow(stage, "(whole stage)", precision, 0.9 - loss, loss, error, 1)


ROWS = (
    row("vision", "int8 minmax", 0.05, 0.2),
    row("vision", "int8 mse", 0.03),
    row("vision", "fp16", 0.001),
    row("text", "int8 minmax", 0.04, 0.3),
    row("fusion", "fp16", 0.001, 0.01),
)
PLAN = {"vision": "int8", "text": "int8", "fusion": "fp16"}


def evidence(plan: dict[str, str]) -> Sensitivity:
    return Sensitivity(8, 0.9, {name: StageChoice(precision) for name, precision in plan.items()}, ROWS, ())


class Passing:
    """Judges that a plan passes if it is among those; keeps what was asked."""

    def __init__(self, *passing: dict[str, str]) -> None:
        self.passing = passing
        self.asked: list[dict[str, str]] = []

    def add(self, name: str, plan: dict[str, str]) -> Judged:
        self.asked.append(dict(plan))
        failures = () if plan in self.passing else ("macro-F1 fell",)
        return Judged(name, dict(plan), 1, SURE, SURE, 0.9, {}, failures=failures)


def settle(judge: Passing, fallback: bool = True) -> tuple[dict[str, str], Judged, list[str]]:
    build: Any = SimpleNamespace(recipe=SimpleNamespace(gate=SimpleNamespace(fallback=fallback)))
    notes: list[str] = []
    plan, chosen = gate._settle(build, judge, MANIFEST, evidence(PLAN), notes)  # type: ignore[arg-type]
    return plan, chosen, notes


def test_a_plan_that_passes_is_the_one() -> None:
    plan, chosen, notes = settle(Passing(PLAN))
    assert (plan, chosen.passed, chosen.name, notes) == (PLAN, True, "plan", [])


def test_the_stage_that_costs_most_gives_its_precision_back_step_by_step() -> None:
    steps = [
        PLAN,
        PLAN | {"vision": "fp16"},
        PLAN | {"vision": "fp16", "text": "fp32"},  # there is no FP16 of it
    ]
    judge = Passing(steps[-1])
    plan, chosen, notes = settle(judge)
    assert (plan, chosen.passed, judge.asked) == (steps[-1], True, steps)
    assert notes == [
        "gate: macro-F1 fell; vision falls back to fp16",
        "gate: macro-F1 fell; text falls back to fp32",
    ]


def test_it_ends_where_nothing_is_reduced_any_more_or_nothing_may_be_given_back() -> None:
    plan, chosen, notes = settle(Passing())
    assert (set(plan.values()), chosen.passed) == ({"fp32"}, False)
    assert len(notes) == 4, "vision twice, text and fusion once"
    plan, chosen, notes = settle(Passing(), fallback=False)
    assert (plan, chosen.passed, notes) == (PLAN, False, [])


def test_what_costs_most_is_named_with_what_to_do() -> None:
    assert gate._blame(evidence(PLAN), PLAN) == (
        "\n  vision in int8 costs most: 0.0500 of the figure by itself, logits 20.0% off; "
        "take it out of quantise.stages, or let gate.fallback give its precision back"
    )
    assert "text in int8 costs most" in gate._blame(evidence(PLAN), PLAN | {"vision": "fp16"})
    assert gate._blame(evidence(PLAN), dict.fromkeys(PLAN, "fp32")) == ""
    assert gate._costliest(evidence(PLAN), {"fusion": "fp16", "vision": "fp16", "text": "fp32"}) == "fusion"
    assert gate._cost(evidence(PLAN), "nowhere", "int8") == (0.0, 0.0)


@pytest.mark.parametrize(
    ("wanted", "stage", "given"),
    [("int8", "vision", "int8"), ("int8", "fusion", "fp16"), ("fp16", "text", "fp32"), ("fp16", "vision", "fp16")],
)
def test_a_whole_precision_takes_of_each_stage_what_is_nearest(wanted: str, stage: str, given: str) -> None:
    assert gate._nearest(wanted, FILES[stage]) == given


def test_where_it_was_judged_is_said() -> None:
    gpu = Gpu(description="tensorrt on X")
    assert gate._judged_on(Gpu(reason="no driver"), True) == "judged on ONNX Runtime (CPU) only: no driver"
    assert gate._judged_on(gpu, True) == "judged on ONNX Runtime (CPU) and on tensorrt on X"
    assert gate._judged_on(gpu, False).endswith("refused there, so not tried on tensorrt on X")


EXACT = dict.fromkeys(("vision", "text", "sensors", "fusion"), "fp32")
AT_NS = 1_000_000_000
BRIGHT, DARK = 240, 20


def bundle_of(folder: Path, **graphs: bytes) -> Bundle:
    """The tiny bundle, a head beside its own, and graphs of other precisions by `stage_precision`."""
    side = SideHead("beside", SoftmaxHead(tiny.LABELS, "stage:fusion:logits"), DecisionPolicy("stop"))
    path = tiny.write_bundle(folder, side_heads=(side,))
    manifest = open_bundle(path, allow_unsigned=True).manifest
    stages, files = [], dict(manifest.files)
    for stage in manifest.stages:
        more = {}
        for precision in ("fp16", "int8"):
            if (graph := graphs.get(f"{stage.name}_{precision}")) is not None:
                more[precision] = file = f"stages/{stage.name}.{precision}.onnx"
                (path / file).write_bytes(graph)
                files[file] = hashlib.sha256(graph).hexdigest()
        stages.append(msgspec.structs.replace(stage, files={**stage.files, **more}))
    changed = msgspec.structs.replace(manifest, stages=tuple(stages), files=files)
    (path / bundles.MANIFEST).write_bytes(encode_manifest(changed))
    return open_bundle(path, allow_unsigned=True)


def moment(number: int, brightness: int | None, *others: RawMessage) -> LabelledSet:
    """A picture (or none) whose label is what it is."""
    picture = np.full((tiny.HEIGHT, tiny.WIDTH, 3), brightness or 0, np.uint8)
    camera = () if brightness is None else (RawMessage("camera", AT_NS, picture),)
    label = "bright" if brightness == BRIGHT else "dark"
    return LabelledSet(f"m{number}", f"g{number}", AT_NS, label, (*camera, *others), side={"beside": label})


PICTURES = [moment(number, BRIGHT if number % 2 else DARK) for number in range(12)]
SAID = RawMessage("text", AT_NS, Words("go on then"))


def judge_of(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    moments: Sequence[LabelledSet] = PICTURES,
    said: StringIO | None = None,
    **limits: Any,
) -> Judge:
    monkeypatch.setattr(gate, "evaluation_moments", lambda build, bundle: iter(moments))
    recipe = SimpleNamespace(gate=GateRecipe(**{"min_gain": 0.0, **limits}), seed=0)
    build: Any = SimpleNamespace(recipe=recipe, console=Console(file=said or StringIO(), width=200))
    return Judge(build, bundle)


def wrong_way_round() -> bytes:
    """A fusion that says dark where it is bright: its weights are negative."""
    return tiny.fusion_graph(-1.0)


def test_fp32_is_judged_first_against_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of(tmp_path)
    (exact,) = judge_of(bundle, monkeypatch).judged
    assert (exact.name, exact.plan, exact.failures, exact.backend) == ("fp32", EXACT, (), "onnxruntime")
    assert (exact.figure.value, exact.decisions_figure) == (1.0, 1.0)
    assert exact.difference == Interval(0.0, 0.0, 0.0)
    assert exact.bytes == sum((bundle.path / f"stages/{name}.fp32.onnx").stat().st_size for name in EXACT)
    assert {name: part.value for name, part in exact.parts.items()} == dict.fromkeys(
        ("bright", "dark", "beside.bright", "beside.dark"), 1.0
    )


def test_how_far_each_judgement_is_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    said = StringIO()
    judge_of(bundle_of(tmp_path, fusion_int8=wrong_way_round()), monkeypatch, said=said).add(
        "int8", EXACT | {"fusion": "int8"}
    )
    lines = [line.partition(" after")[0] for line in said.getvalue().splitlines()]
    assert lines == [f"evaluate: {name}: {count + 1}" for name in ("fp32", "int8") for count in range(len(PICTURES))]


def test_a_plan_that_answers_otherwise_has_fallen_in_model_and_decisions_and_in_every_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_of(bundle_of(tmp_path, fusion_int8=wrong_way_round()), monkeypatch)
    found = judge.add("int8", EXACT | {"fusion": "int8"})
    assert judge.judged[1] is found and not found.passed
    heads = [line.partition(": macro-F1")[0] for line in found.failures if "macro-F1 1.0000 -> 0.0000" in line]
    assert heads == ["model", "decisions", "beside model", "beside decisions"]
    assert (found.figure.value, found.difference.value, found.decisions_figure) == (0.0, -1.0, 0.0)
    assert found.difference.high <= found.difference.value + 1e-9
    assert found.parts["beside.bright"].value == 0.0


def test_a_plan_is_judged_once_whatever_it_is_called_and_fp32_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_of(bundle_of(tmp_path, fusion_int8=wrong_way_round()), monkeypatch)
    plan = EXACT | {"fusion": "int8"}
    first = judge.add("int8", plan)
    monkeypatch.setattr(Judge, "_run", lambda *_: pytest.fail("evaluated again"))
    again = judge.add("plan", plan)
    assert again == msgspec.structs.replace(first, name="plan")
    assert judge.judged[1] is again and len(judge.judged) == 2
    assert judge.add("plan", EXACT).name == "fp32" and len(judge.judged) == 2


def test_a_plan_must_save_its_share_and_fp32_need_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of(tmp_path, vision_fp16=tiny.vision_graph())  # no smaller than it was
    judge = judge_of(bundle, monkeypatch, min_gain=0.05)
    (line,) = judge.add("fp16", EXACT | {"vision": "fp16"}).failures
    size = judge.judged[0].bytes
    assert line == f"its graphs have {size} bytes, FP32's {size}: not 5% smaller"
    assert judge.add("plan", EXACT).passed
    assert judge_of(bundle, monkeypatch).add("fp16", EXACT | {"vision": "fp16"}).passed


def test_what_no_moment_makes_run_passes_only_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (tiny.write_bundle(tmp_path / "other") / "stages/text.fp32.onnx").read_bytes()
    bundle, plan = bundle_of(tmp_path / "b", text_fp16=text), EXACT | {"text": "fp16"}
    found = judge_of(bundle, monkeypatch).add("plan", plan)
    assert found.failures == ("text in fp16: no moment that is evaluated feeds it, so nothing tells what it loses",)
    assert judge_of(bundle, monkeypatch, [*PICTURES, moment(12, DARK, SAID)]).add("plan", plan).passed


def test_an_engine_that_gives_no_numbers_is_said_once_and_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_of(bundle_of(tmp_path, fusion_int8=tiny.fusion_graph(float("nan"))), monkeypatch)
    found = judge.add("int8", EXACT | {"fusion": "int8"})
    assert "not finite" in found.failures[0]
    assert sum(line.startswith("engine") for line in found.failures) == 1


GOOD = Agreement(0.1, 0.01, 4)
NO_GPU = Gpu(reason="no driver")


def on_gpu(judge: Judge, plan: dict[str, str], monkeypatch: pytest.MonkeyPatch, **agreement: Agreement) -> Judged:
    """Judged on a GPU whose engines agree so with the oracle, stage by stage; the whole runs here."""
    monkeypatch.setattr(gate, "stage_agreements", lambda *_: dict.fromkeys(plan, GOOD) | agreement)
    monkeypatch.setattr(gate, "settings", lambda build: ON_CPU)
    return judge.add_on_gpu(plan, Gpu(description="tensorrt on X"))


def test_on_a_gpu_stages_and_the_whole_must_agree_and_the_limits_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of(tmp_path, fusion_int8=wrong_way_round())
    # Without a picture the model is not asked, and there are no logits to compare.
    judge = judge_of(bundle, monkeypatch, [*PICTURES, moment(12, None, SAID)])
    good = on_gpu(judge, EXACT, monkeypatch)
    assert (good.name, good.backend, good.failures) == ("plan on tensorrt on X", "tensorrt on X", ())
    assert good.agreement == dict.fromkeys(EXACT, GOOD) | {LOGITS: Agreement(0.0, 0.0, 12 * len(tiny.LABELS))}
    assert judge.judged[-1] is good
    (line,) = on_gpu(judge, EXACT, monkeypatch, text=Agreement(0.0, 0.0, 0)).failures
    assert line.startswith("engine of stage text: compared with ONNX Runtime on no samples")
    (line,) = on_gpu(judge, EXACT, monkeypatch, vision=Agreement(3.0, 0.3, 1)).failures
    assert line.startswith("engine of stage vision: off by 30.00%")
    bad = on_gpu(judge, EXACT | {"fusion": "int8"}, monkeypatch)
    assert bad.failures[0].startswith("model: macro-F1"), "it agrees with itself, and answers otherwise"


def test_moments_that_only_one_side_answers_are_no_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_of(bundle_of(tmp_path), monkeypatch)
    run = judge._run("fp32", EXACT)
    outputs = (None, None, *run.logits[2:])
    silent = msgspec.structs.replace(run, evaluation=replace(run.evaluation, outputs=outputs))
    for runs in ([silent, run], [run, silent]):
        monkeypatch.setattr(judge, "_run", lambda *_, runs=runs: runs.pop(0))
        found = on_gpu(judge, EXACT, monkeypatch)
        assert found.failures == ("logits: 2 of 12 moments have some on one side only",)
        assert found.agreement[LOGITS] == Agreement(0.0, 0.0, 10 * len(tiny.LABELS))
    monkeypatch.setattr(judge, "_run", lambda *_: silent)
    assert on_gpu(judge, EXACT, monkeypatch).passed, "where neither is asked there is nothing to compare"


def test_a_model_that_was_never_asked_agrees_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_of(bundle_of(tmp_path), monkeypatch, [moment(number, None, SAID) for number in range(3)])
    failures = on_gpu(judge, EXACT, monkeypatch).failures
    assert failures == ("logits: compared with ONNX Runtime on no samples; evaluate moments that feed it",)


def test_at_most_some_moments_go_through_each_engine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []

    def counted(build: Any, bundle: Bundle, plan: dict[str, str], inputs: Any) -> dict[str, Agreement]:
        fed.append(len(list(inputs.of("vision"))))
        return dict.fromkeys(plan, GOOD)

    monkeypatch.setattr(gate, "MOMENTS", 4)
    bundle = bundle_of(tmp_path)
    for moments, expected in ((PICTURES[:9], 3), (PICTURES[:4], 4), (PICTURES[:5], 3)):
        judge = judge_of(bundle, monkeypatch, moments)
        monkeypatch.setattr(gate, "stage_agreements", counted)
        monkeypatch.setattr(gate, "settings", lambda build: ON_CPU)
        judge.add_on_gpu(EXACT, Gpu(description="tensorrt on X"))
        assert fed.pop() == expected


def test_what_cannot_run_on_the_gpu_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_of(bundle_of(tmp_path), monkeypatch)

    def fails(*_: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(Judge, "_run", fails)
    with pytest.raises(GateRefused, match=r"^evaluate: the plan on tensorrt on X: out of memory$"):
        on_gpu(judge, EXACT, monkeypatch)
    assert len(judge.judged) == 1


class Bench:
    """A work folder as the stages before the gate leave it, and what the gate did."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, plan: dict[str, str], gpu: Gpu = NO_GPU, **limits: Any
    ) -> None:
        self.work = folder / "work"
        self.candidates: list[dict[str, str]] = []
        self.on_gpu: list[dict[str, str]] = []
        self.gpu_fails = False
        for name in ("quantised", "engines", "candidate", "report"):
            (self.work / name).mkdir(parents=True)
            (self.work / name / "stale").touch()
        choices = {name: StageChoice(precision) for name, precision in plan.items()}
        rows = (row("fusion", "int8 minmax", 0.5, 0.3), row("vision", "fp16", 0.0, 0.1))
        found = Sensitivity(8, 1.0, choices, rows, ("chosen by evidence",))
        (self.work / "quantised" / "plan.json").write_bytes(msgspec.json.encode(found))
        (self.work / "engines" / ENGINES).write_bytes(b"[]")
        limits = {"min_gain": 0.0, **limits}
        recipe = SimpleNamespace(gate=GateRecipe(**limits), budget=BudgetRecipe(), seed=0, slim=False)
        self.said = StringIO()
        self.build: Any = SimpleNamespace(work=self.work, recipe=recipe, console=Console(file=self.said, width=200))
        self.moments: Sequence[LabelledSet] = PICTURES
        patch.setattr(gate, "evaluation_moments", lambda build, bundle: iter(self.moments))
        patch.setattr(gate, "find_gpu", lambda build: gpu)
        patch.setattr(gate, "write_candidate", self._write)
        patch.setattr(Judge, "add_on_gpu", self._add_on_gpu)

    def _write(self, build: Any, trial: Bundle, exact: Any, judged: Any, plan: dict[str, str], *_: Any) -> str:
        assert (trial.path / "manifest.json").is_file(), "the trial is there until the candidate is written"
        self.candidates.append(dict(plan))
        return "digest"

    def _add_on_gpu(self, plan: dict[str, str], gpu: Gpu) -> Judged:
        self.on_gpu.append(dict(plan))
        return Judged("plan on X", {}, 1, SURE, SURE, 0.9, {}, failures=("off by 9%",) if self.gpu_fails else ())

    def judge(self, bundle: Bundle) -> Verdict:
        """Run the gate; what it wrote. Raises GateRefused as it does."""
        try:
            gate.judge_candidate(self.build, bundle)
        finally:
            left = sorted(path.name for path in self.work.iterdir())
            assert "candidate" not in left, "what was there before is no candidate any more"
        return self.verdict()

    def verdict(self) -> Verdict:
        assert not (self.work / "trial").exists()
        written = sorted(path.name for path in (self.work / "report").iterdir())
        assert written == ["cost.json", "gate.md", "gate.png", "verdict.json"]
        assert (self.work / "report" / "gate.png").read_bytes().startswith(b"\x89PNG")
        return msgspec.json.decode((self.work / VERDICT).read_bytes(), type=Verdict)


def test_a_plan_that_passes_becomes_the_candidate_with_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = EXACT | {"vision": "fp16"}
    bench = Bench(tmp_path, monkeypatch, plan)
    verdict = bench.judge(bundle_of(tmp_path / "b", vision_fp16=tiny.vision_graph()))
    assert (verdict.passed, verdict.bundle_digest, verdict.chosen) == (True, "digest", "plan")
    assert bench.candidates == [plan]
    # The whole in FP16 is the plan here, and is judged once; nothing is there in INT8.
    assert [(one.name, one.plan) for one in verdict.judged] == [("fp32", EXACT), ("plan", plan)]
    assert verdict.notes == ("chosen by evidence", "judged on ONNX Runtime (CPU) only: no driver")
    text = (bench.work / "report" / "gate.md").read_text()
    assert "- chosen by evidence" in text and "| plan |" in text
    assert "evaluate: judged on ONNX Runtime (CPU) only: no driver" in bench.said.getvalue()
    assert "difference to FP32" in bench.said.getvalue()


def test_every_precision_that_there_is_is_judged_whole_beside_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of(tmp_path / "b", vision_fp16=tiny.vision_graph(), fusion_int8=wrong_way_round())
    verdict = Bench(tmp_path, monkeypatch, EXACT).judge(bundle)
    assert [(one.name, one.plan, one.passed) for one in verdict.judged] == [
        ("fp32", EXACT, True),
        ("fp16", EXACT | {"vision": "fp16"}, True),
        ("int8", EXACT | {"vision": "fp16", "fusion": "int8"}, False),
    ]


def test_a_plan_that_falls_gives_way_or_is_refused_with_what_fell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, plan = bundle_of(tmp_path / "b", fusion_int8=wrong_way_round()), EXACT | {"fusion": "int8"}
    bench = Bench(tmp_path / "gives way", monkeypatch, plan)
    verdict = bench.judge(bundle)
    assert verdict.passed and bench.candidates == [EXACT]
    assert verdict.notes[1] == "gate: model: macro-F1 1.0000 -> 0.0000, below 99% of FP32; fusion falls back to fp32"
    bench = Bench(tmp_path / "refused", monkeypatch, plan, Gpu(description="tensorrt on X"), fallback=False)
    with pytest.raises(GateRefused) as caught:
        bench.judge(bundle)
    first, second, *_, last = str(caught.value).splitlines()
    assert first == "evaluate: the reduced precision loses too much:"
    assert second == "  plan: model: macro-F1 1.0000 -> 0.0000, below 99% of FP32"
    assert last.startswith("  fusion in int8 costs most: 0.5000")
    verdict = bench.verdict()
    assert (verdict.passed, verdict.bundle_digest, bench.candidates, bench.on_gpu) == (False, "", [], [])
    assert verdict.notes[-1].endswith("refused there, so not tried on tensorrt on X")


@pytest.mark.parametrize("fails", [False, True])
def test_where_a_gpu_is_it_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    bench = Bench(tmp_path, monkeypatch, EXACT, Gpu(description="tensorrt on X"))
    bench.gpu_fails = fails
    if fails:
        with pytest.raises(
            GateRefused, match="^evaluate: what passed on ONNX Runtime does not on TensorRT:\n"
        ) as caught:
            bench.judge(bundle_of(tmp_path / "b"))
        assert "costs most" not in str(caught.value), "what it loses on the CPU is not to blame"
        assert (bench.verdict().passed, bench.candidates) == (False, [])
    else:
        assert bench.judge(bundle_of(tmp_path / "b")).passed and bench.candidates == [EXACT]
    assert bench.on_gpu == [EXACT]


def test_a_reference_that_knows_nothing_is_refused_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch, EXACT)
    bundle = open_bundle(tiny.write_bundle(tmp_path / "b", scale=-1.0), allow_unsigned=True)
    with pytest.raises(GateRefused, match="evaluate: FP32 itself is right in 0.0000 of 12 moments"):
        bench.judge(bundle)
    assert bench.candidates == [] and list((bench.work / "report").iterdir()) == []


def test_a_machine_that_the_budget_names_must_have_timed_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, bundle = Bench(tmp_path, monkeypatch, EXACT), bundle_of(tmp_path / "b")

    def allow(ms: float) -> None:
        targets = {"box": TargetBudget(ms=ms, measured=str(tmp_path / "box.json"))}
        bench.build.recipe.budget = BudgetRecipe(targets=targets)

    allow(1e-6)
    with pytest.raises(GateRefused, match="nobody knows what a decision takes on box: there is no file") as refusal:
        bench.judge(bundle)
    assert "edge-runtime bundle time unmeasured --allow-unsigned --out box.json" in str(refusal.value)
    there = measure(open_bundle(bench.work / "unmeasured", allow_unsigned=True), ON_CPU)
    write_times(tmp_path / "box.json", there)
    with pytest.raises(GateRefused, match=r"ms on box; budget\.targets\.box\.ms is 1e-06"):
        bench.judge(bundle)
    allow(1e6)
    assert bench.judge(bundle).passed
    assert not (bench.work / "unmeasured").exists()
    assert "; box " in bench.said.getvalue()
