"""A recipe with some of its keys changed, or with one of its modalities alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from build_engines.recipe.recipe import Recipe
from build_engines.recipe.train import MirrorRecipe
from edge_runtime.config import convert_strict
from edge_runtime.errors import ConfigError
from edge_runtime.streams import SensorStream, streams_of


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """`recipe` with `settings`: key, with dots for tables within tables, to value. Raises ConfigError (one line)."""
    data = msgspec.to_builtins(recipe)
    for key, value in settings.items():
        _set(data, key.split("."), value, key)
    changed: Recipe = convert_strict(data, Recipe, f"recipe {recipe.name}, candidate {in_words(settings)}")
    return changed


def _set(table: dict[str, Any], parts: list[str], value: Any, key: str) -> None:
    """Names may hold dots themselves (`camera.front`): the longest one that is there is meant."""
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if end == len(parts) and (name in table or end == 1):
            table[name] = value  # a key that is not known is refused when the recipe is read again
            return
        if end < len(parts) and isinstance(table.get(name), dict):
            _set(table[name], parts[end:], value, key)
            return
    raise ConfigError(f"choose.candidates: {key!r} is no key of the recipe; keys are written as `train.epochs`")


def alone(recipe: Recipe, encoder: str) -> Recipe:
    """`recipe` with only one of its encoders, and without the streams that nothing reads then."""
    read = recipe.model.encoders[encoder].streams
    kept = {*read, recipe.trigger}
    plan, policy = recipe.train, recipe.decision
    needs = {label: tuple(name for name in names if name in kept) for label, names in policy.needs.items()}
    return msgspec.structs.replace(
        recipe,
        streams={name: spec for name, spec in recipe.streams.items() if name in kept},
        model=recipe.model.only(encoder),
        train=msgspec.structs.replace(
            plan,
            modality_dropout={name: share for name, share in plan.modality_dropout.items() if name in read},
            augment=msgspec.structs.replace(plan.augment, mirror=_mirror(recipe, encoder)),
        ),
        decision=msgspec.structs.replace(policy, needs={label: names for label, names in needs.items() if names}),
        quantise=msgspec.structs.replace(
            recipe.quantise, stages=tuple(name for name in recipe.quantise.stages if name in (encoder, "fusion"))
        ),
    )


def _mirror(recipe: Recipe, encoder: str) -> MirrorRecipe | None:
    """What is mirrored of one modality alone: its own channels; names of auxiliary labels only where it has any."""
    mirror = recipe.train.augment.mirror
    if mirror is None:
        return None
    specs = streams_of({name: recipe.streams[name] for name in recipe.model.encoders[encoder].streams}, SensorStream)
    own = {channel.name for spec in specs.values() for channel in spec.channels}
    channels = tuple(name for name in mirror.channels if name in own)
    has_aux = bool(recipe.model.encoders[encoder].aux)
    labels = tuple(pair for pair in mirror.labels if has_aux or set(pair) <= set(recipe.labels))
    return MirrorRecipe(labels, channels)


def in_words(settings: Mapping[str, Any]) -> str:
    """E.g. `train.epochs = 12, model.fusion.kind = "gated"`."""
    return ", ".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in settings.items())
