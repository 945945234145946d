"""Train all stages together with fixed seeds on as many CPU threads as the recipe says: the same recipe, data, machine
and versions of the libraries give the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from build_engines.data.augment import Augmenter, Mix
from build_engines.data.datasets import NO_WORD, Batch, Ints, Prepared
from build_engines.heads import build_of
from build_engines.heads.fitted import Fitted
from build_engines.heads.training import class_weights
from build_engines.modalities import encoder_fields, modality_of_encoder
from build_engines.modalities.text import tokenizer_kind
from build_engines.modalities.text.word_network import WordEncoder
from build_engines.model.ahead import ahead
from build_engines.model.device import device_in_use, device_of
from build_engines.model.fitting import fit
from build_engines.model.fused import FusedModel, Fusion
from build_engines.model.kept import KeptRows
from build_engines.model.lessons import Lessons
from build_engines.model.weights import load_weights, save_weights
from build_engines.progress import progress
from build_engines.recipe import Recipe
from edge_runtime.errors import UserError
from edge_runtime.heads import Head
from edge_runtime.streams import StreamSpec
from edge_runtime.tensor_source import PRESENCE, stream_tensor
from edge_runtime.tokenizer import load_tokenizer

WEIGHTS, RECORD, TOKENIZER_FILE, SAMPLES = "weights.npz", "training.json", "tokenizer.model", "samples.npz"
EXPORT_SAMPLES = 32


class EpochRecord(Struct, frozen=True):
    """One epoch: mean training loss, and the averaged weights' scores on the validation split."""

    loss: float
    val_accuracy: float
    val_figure: float
    """What the head is judged by: macro-F1 of one with labels."""


class TrainingRecord(Struct, frozen=True):
    """`training.json`: what the later stages need to know about a training run."""

    recipe_sha256: str
    data_sha256: str
    seed: int
    vocabulary: int
    temperature: float
    streams: dict[str, StreamSpec]
    """With the channels' mean and deviation."""
    epochs: tuple[EpochRecord, ...]
    thresholds: dict[str, float] = {}
    """Of a sigmoid head's labels, as they were fitted."""
    side_heads: dict[str, dict[str, Any]] = {}
    """Of the heads beside the first: settings of the policy that were fitted, by head and name."""
    offsets: dict[str, float] = {}
    """What was added to a softmax head's logits for its macro-F1; it is in the weights."""
    device: str = "cpu"
    """What trained."""


@dataclass(frozen=True)
class Trained:
    """A trained model (eval mode) and its record."""

    model: FusedModel
    record: TrainingRecord


def train(
    recipe: Recipe,
    recipe_digest: str,
    prepared: Prepared,
    console: Console,
    initial: Trained | None = None,
    fitted: Fitted | None = None,
    watched: bool = True,
) -> Trained:
    """Fit the model of `recipe` to `prepared`, from `initial` where given; a progress bar goes to `console`.

    `fitted`: temperature, thresholds and offsets, where they are known from elsewhere; else they are fitted to the
    validation split, and flatter what is measured there. `watched`: score the validation split after every epoch, not
    only after the last; the weights are the same.
    """
    torch.set_num_threads(recipe.train.threads)
    vocabulary = _vocabulary(prepared)
    recipe = msgspec.structs.replace(recipe, streams=prepared.streams)
    kept = KeptRows(prepared.cache, recipe.train.augment, recipe.seed)
    start = None if initial is None else initial.model.state_dict()
    averaged, history = _learned(recipe, vocabulary, prepared, kept, console, start, watched)
    fitted = fitted or fit(recipe, {name: predict(averaged, prepared.val, name, kept) for name in recipe.heads})
    if fitted.offsets:
        assert isinstance(averaged.fusion, Fusion)  # the softmax head's
        averaged.fusion.add_to_logits(torch.tensor(fitted.offsets))
    record = TrainingRecord(
        recipe_sha256=recipe_digest,
        data_sha256=prepared.digest,
        seed=recipe.seed,
        vocabulary=vocabulary,
        side_heads=fitted.side,
        temperature=fitted.policy.get("temperature", 1.0),
        streams=prepared.streams,
        epochs=(*(initial.record.epochs if initial is not None else ()), *history),
        thresholds=fitted.policy.get("thresholds", {}),
        offsets=dict(zip(recipe.labels, fitted.offsets, strict=True)) if fitted.offsets else {},
        device=device_of(recipe).type,
    )
    return Trained(averaged, record)


def _learned(
    recipe: Recipe, vocabulary: int, prepared: Prepared, kept: KeptRows, console: Console,
    start: Mapping[str, Tensor] | None, watched: bool,
) -> tuple[FusedModel, list[EpochRecord]]:  # fmt: skip
    """The averaged weights that training comes to from those of `start`, or from random ones; in eval mode."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    device = device_of(recipe)
    model, averaged = FusedModel(recipe, vocabulary), FusedModel(recipe, vocabulary).to(device)
    if start is not None:
        model.load_state_dict(start)
    model.to(device)
    lessons = _lessons(recipe, prepared, model)
    if lessons is not None and start is None:
        _learn_lists(lessons, model, rng, console)
    averaged.load_state_dict(model.state_dict())
    plan = recipe.train
    groups = _groups(model, plan.weight_decay, plan.learning_rate)
    optimiser = torch.optim.AdamW(groups)
    steps = prepared.train.steps * plan.epochs
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, steps, pct_start=0.1)
    loss_of = LossOf(recipe, prepared, kept, kept.keeps(model.encoders.get("vision")))
    history: list[EpochRecord] = []
    done = 0
    with progress(console, "train", steps, transient=False) as advance:
        for epoch in range(plan.epochs):
            model.train()
            total = 0.0
            batches = map(loss_of.changed, prepared.train.epoch(rng))
            # Lessons draw by the same generator, between the batches.
            for batch, mix in ahead(batches) if lessons is None else batches:
                loss = loss_of(model, batch, mix)
                if lessons is not None:
                    loss = loss + lessons.beside(rng)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 2.0)
                optimiser.step()
                schedule.step()
                done += 1
                # The average must not remember the random start: let its memory grow with the steps.
                _average(averaged, model, min(plan.average, (1 + done) / (10 + done)))
                total += float(loss.detach())
                advance(note=f"loss {total / (1 + (done - 1) % prepared.train.steps):.3f}" if not history else "")
            mean = total / prepared.train.steps
            if not np.isfinite(mean):
                raise UserError(f"train: the loss is {mean}; lower train.learning_rate")
            if not watched and epoch + 1 < plan.epochs:
                continue
            last = _score(averaged.eval(), recipe.output_head, prepared, mean, kept)
            history.append(last)
            note = f"loss {last.loss:.3f}  val {build_of(recipe.output_head).figure} {last.val_figure:.3f}"
            advance(0, note)
            if not console.is_terminal:  # a log file sees no bar
                console.print(f"epoch {epoch + 1} of {plan.epochs}: {note}")
    return averaged.cpu().eval(), history


def _lessons(recipe: Recipe, prepared: Prepared, model: FusedModel) -> Lessons | None:
    if prepared.lexicon is None:
        return None
    text = model.encoders["text"]
    assert isinstance(text, WordEncoder)  # the recipe's check
    return Lessons(recipe.train.lexicon, prepared.lexicon, text)


def _learn_lists(lessons: Lessons, model: FusedModel, rng: np.random.Generator, console: Console) -> None:
    model.train()
    mean = float("nan")
    with progress(console, "learn word lists", lessons.steps, transient=False) as advance:
        for done in range(lessons.steps):
            loss = lessons.step(rng)
            mean = loss if done == 0 else 0.98 * mean + 0.02 * loss
            advance(note=f"loss {mean:.3f}")
    if not console.is_terminal:
        console.print(f"word lists: {lessons.steps} steps, loss {mean:.3f}")


def _vocabulary(prepared: Prepared) -> int:
    if prepared.tokenizer is None:
        return 1
    return load_tokenizer(tokenizer_kind(prepared.streams), prepared.tokenizer).size


@runtime_checkable
class LearnsOn(Protocol):
    """An encoder of which a part learns on from weights that others trained, more slowly than the rest."""

    rate: float
    """Of that part's learning: a part of the rest's."""

    def slow_parameters(self) -> Iterator[nn.Parameter]: ...


def _groups(model: FusedModel, decay: float, rate: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: shrinking norms, biases and tokens does not regularise anything. What a
    pretrained network unfreezes learns at a rate of its own."""
    slow = {
        id(value): encoder.rate
        for encoder in model.encoders.values()
        if isinstance(encoder, LearnsOn)
        for value in encoder.slow_parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, decay): [], (1.0, 0.0): []}
    for value in model.parameters():
        if value.requires_grad:
            key = (slow.get(id(value), 1.0), decay if value.ndim >= 2 else 0.0)
            groups.setdefault(key, []).append(value)
    return [
        {"params": values, "weight_decay": weight_decay, "lr": rate * part}
        for (part, weight_decay), values in groups.items()
    ]


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    for (name, mean), now in zip(averaged.state_dict().items(), model.state_dict().values(), strict=True):
        if name in frozen:
            continue
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


class LossOf:
    """The loss of one batch: the fused label, and each modality's auxiliary labels."""

    def __init__(
        self, recipe: Recipe, prepared: Prepared, kept: KeptRows | None = None, keeps_pictures: bool = False
    ) -> None:
        """`keeps_pictures`: `kept` has the pictures' changed versions."""
        plan = recipe.train
        self.plan = plan
        self.kept, self.keeps_pictures = kept, keeps_pictures
        self.augment = Augmenter(plan.augment, recipe.seed)
        counts = {"": prepared.train.counts, **prepared.train.side_counts}
        self.losses = {name: build_of(head).loss(head, counts[name], plan) for name, head in recipe.heads.items()}
        self.weights = {"": 1.0} | {side.name: side.weight for side in recipe.side_heads}
        sizes = {name: size for encoder in recipe.model.encoders.values() for name, size in encoder.aux.items()}
        self.aux_weights = {
            name: class_weights(np.pad(counts, (0, max(0, sizes.get(name, 0) - len(counts)))), plan.class_balance)
            for name, counts in prepared.train.aux_counts.items()
        }
        self.drop = torch.tensor([plan.modality_dropout.get(name, 0.0) for name in recipe.modalities])
        self.modalities = recipe.modalities

    def __call__(self, model: FusedModel, batch: Batch, mix: Mix | None = None) -> Tensor:
        """Of a batch as `changed` gave it."""
        features, aux = encode(model, batch, self.kept)
        presence = torch.from_numpy(batch.presence)
        dropped = (torch.rand_like(presence) < self.drop) & (presence > 0)
        # A pair with nothing left teaches only the prior; keep what it had.
        dropped &= ((presence > 0) & ~dropped).any(1, keepdim=True)
        label = torch.from_numpy(batch.label)
        for name, other in batch.label_without.items():
            label = torch.where(dropped[:, self.modalities.index(name)], torch.from_numpy(other), label)
        outputs = model.fusion.every(features, (presence * ~dropped).to(features.device))
        # The rest is little, and drawn and judged on the processor, wherever the model is.
        raw, aux = ({name: value.cpu() for name, value in part.items()} for part in (outputs, aux))
        truths = {"": label} | {name: torch.from_numpy(right) for name, right in batch.side.items()}
        answers = {name: judged(raw[name], truth) for name, truth in truths.items()}
        loss = self._judge(answers, aux, batch.aux)
        if mix is None:
            return loss
        # A mixed picture shows two things, each to its part: so do its labels.
        others = {name: target[mix.partner] for name, target in batch.aux.items()}
        mixed = {name: (output, truth[mix.partner]) for name, (output, truth) in answers.items()}
        return mix.share * loss + (1 - mix.share) * self._judge(mixed, aux, others)

    def changed(self, batch: Batch) -> tuple[Batch, Mix | None]:
        """`batch` with its pictures changed at random, and how they were mixed with each other. One thread, not that
        of the model."""
        if "vision" not in batch.inputs or self.keeps_pictures:
            return batch, None
        (vision,) = batch.inputs["vision"]
        pictures = vision.reshape(-1, *vision.shape[2:])
        pictures, mix = self.augment.mix(self.augment(pictures))
        if mix is not None and not np.array_equal(batch.rows["vision"], np.arange(len(pictures))):
            raise UserError("train.augment mixes pictures: each must have one label of its own, but pairs share them")
        return replace(batch, inputs={**batch.inputs, "vision": (pictures.reshape(vision.shape),)}), mix

    def _judge(
        self, answers: Mapping[str, tuple[Tensor, Tensor]], aux: Mapping[str, Tensor], targets: Mapping[str, Ints]
    ) -> Tensor:
        """`answers`: raw outputs and truths by head."""
        loss = self.losses[""](*answers[""])
        for name, (output, truth) in answers.items():
            if name:
                loss = loss + self.weights[name] * self.losses[name](output, truth)
        for name, target in targets.items():
            if name in aux and (target >= 0).any():  # rows without this label are left out
                loss = loss + self.plan.aux_weight * cross_entropy(
                    aux[name],
                    torch.from_numpy(target),
                    self.aux_weights.get(name),
                    label_smoothing=self.plan.label_smoothing,
                )
        return loss


def encode(model: FusedModel, batch: Batch, kept: KeptRows | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Features of every pair [P, n, d] and the auxiliary logits of every encoded row. `kept`: where what frozen parts
    make of inputs is looked up."""
    parts: list[Tensor] = []
    aux: dict[str, Tensor] = {}
    device = device_in_use(model)
    for name, encoder in model.encoders.items():
        inputs = batch.inputs[name]
        count = len(inputs[0])
        if name in model.batched:  # every camera is a row of its own
            inputs = tuple(value.reshape(-1, *value.shape[2:]) for value in inputs)
        if kept:
            features, logits = kept.encode(name, encoder, inputs)
        else:
            features, logits = encoder(*(torch.from_numpy(array).to(device) for array in inputs))
        several = name in model.batched
        features = features.reshape(count, -1, *features.shape[1:]) if several else features.unsqueeze(1)
        parts.append(features[torch.from_numpy(batch.rows[name]).to(device)])
        aux |= logits
    return torch.cat(parts, dim=1), aux


@torch.no_grad()
def predict(
    model: FusedModel, batches: Sequence[Batch], head: str = "", kept: KeptRows | None = None
) -> tuple[Tensor, Tensor]:
    """Raw outputs [N, outputs] and truths ([N] labels, [N, V] values) of all pairs (of a tagging head: of all words) in
    `batches`, for the first head or the one called `head`."""
    outputs = []
    for batch in batches:
        features, _ = encode(model, batch, kept)
        said = model.fusion.every(features, torch.from_numpy(batch.presence).to(features.device))[head]
        outputs.append(judged(said.cpu(), torch.from_numpy(batch.side[head] if head else batch.label)))
    return torch.cat([logits for logits, _ in outputs]), torch.cat([label for _, label in outputs])


def judged(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, labels] and labels [N] of what is judged: of a tagging head ([P, W, labels] and [P, W]) the words.

    Where there is no word the label is `NO_WORD`. Values [P, V] are judged as they are.
    """
    if label.ndim == 1 or label.is_floating_point():
        return logits, label
    words = label != NO_WORD
    return logits[words], label[words]


def _score(model: FusedModel, head: Head, prepared: Prepared, loss: float, kept: KeptRows) -> EpochRecord:
    accuracy, figure = build_of(head).trained_scores(head, *predict(model, prepared.val, kept=kept))
    return EpochRecord(round(loss, 5), round(accuracy, 5), round(figure, 5))


def save(recipe: Recipe, trained: Trained, prepared: Prepared, work: Path) -> None:
    """Write weights.npz, training.json, the tokenizer and some real samples for the export's proof into `work`."""
    work.mkdir(parents=True, exist_ok=True)
    save_weights(trained.model, work / WEIGHTS)
    (work / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(trained.record), indent=1))
    if prepared.tokenizer is not None:
        (work / TOKENIZER_FILE).write_bytes(prepared.tokenizer)
    samples = export_samples(recipe, prepared.val)
    np.savez(work / SAMPLES, **samples)  # type: ignore[arg-type]  # the stub takes array names for flags


def export_samples(recipe: Recipe, batches: Sequence[Batch]) -> dict[str, NDArray[np.generic]]:
    """The first validation pairs: presence, and each stream's tensors by source, one row [1, ...] a sample."""
    batch = batches[0]
    count = min(EXPORT_SAMPLES, len(batch.label))
    samples: dict[str, NDArray[np.generic]] = {str(PRESENCE): batch.presence[:count, None]}
    for name, encoder in recipe.model.encoders.items():
        spec = recipe.streams[encoder.streams[0]]
        for (field, form), values in zip(encoder_fields(spec).items(), batch.inputs[name], strict=True):
            rows = values[batch.rows[name][:count]]
            for place, stream in enumerate(encoder.streams):
                row = rows[:, place] if modality_of_encoder(encoder).batched else rows
                samples[str(stream_tensor(stream, field))] = _filled_up(row, form.shape[1:])[:, None]
    return samples


def _filled_up(rows: NDArray[np.generic], shape: Sequence[int]) -> NDArray[np.generic]:
    """`rows` [n, ...] with zeros behind, up to the `shape` that the device gives: batches may be shorter."""
    missing = [(0, whole - there) for whole, there in zip(shape, rows.shape[1:], strict=True)]
    return np.pad(rows, [(0, 0), *missing])


def load_trained(recipe: Recipe, work: Path) -> Trained:
    """The model that `save` wrote for `recipe`, in eval mode. Raises UserError."""
    try:
        record = msgspec.json.decode((work / RECORD).read_bytes(), type=TrainingRecord)
    except OSError:
        raise UserError(f"no training in {work}; run the train stage first") from None
    except msgspec.DecodeError as error:
        raise UserError(f"{work / RECORD}: is damaged ({error}); run the train stage again") from None
    model = FusedModel(msgspec.structs.replace(recipe, streams=record.streams), record.vocabulary)
    load_weights(model, work / WEIGHTS)
    return Trained(model.eval(), record)
