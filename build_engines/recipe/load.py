"""A recipe's file, read and checked."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from build_engines.modalities.text.shelf import tokenizer_kind_of
from build_engines.pretrained.recipe import FILES, PretrainedKeys
from build_engines.recipe.budget import TargetBudget
from build_engines.recipe.checks import check, check_common, check_onnx
from build_engines.recipe.recipe import AnyRecipe, OnnxRecipe, Recipe
from build_engines.recipe.variant import in_words, with_settings
from edge_runtime.config import convert_strict
from edge_runtime.errors import ConfigError
from edge_runtime.streams import TextStream

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_recipe(path: Path) -> tuple[AnyRecipe, str]:
    """The recipe at `path` and the sha256 of its bytes. Raises ConfigError (one line)."""
    try:
        raw = path.read_bytes()
        data = tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"recipe {path}: cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: is not TOML ({error})") from None
    if "onnx" in data and "model" in data:
        raise ConfigError(f"recipe {path}: has both [model] (to be trained) and [onnx] (one's own); keep one of them")
    recipe: AnyRecipe
    base = path.resolve().parent
    if "onnx" in data:
        recipe = own = _beside(convert_strict(_unclipped(data), OnnxRecipe, f"recipe {path}"), base)
        problem = check_common(recipe) or check_onnx(own)
    else:
        recipe = trained = _with_own_tokenizer(_trained_beside(convert_strict(data, Recipe, f"recipe {path}"), base))
        problem = check(trained) or _candidates(trained)
    if problem:
        raise ConfigError(f"recipe {path}: {problem}")
    recordings = tuple(str(base / file) for file in recipe.calibrate.recordings)
    recipe = msgspec.structs.replace(
        recipe,
        calibrate=msgspec.structs.replace(recipe.calibrate, recordings=recordings),
        budget=msgspec.structs.replace(recipe.budget, targets=_times_beside(recipe.budget.targets, base)),
    )
    return recipe, hashlib.sha256(raw).hexdigest()


def _times_beside(targets: Mapping[str, TargetBudget], base: Path) -> dict[str, TargetBudget]:
    """`targets` with the paths of their times made absolute."""
    return {
        name: msgspec.structs.replace(target, measured=str(base / target.measured)) if target.measured else target
        for name, target in targets.items()
    }


def _candidates(recipe: Recipe) -> str | None:
    """What is wrong with one of `choose.candidates`, or None. Raises ConfigError for a key or value that is none."""
    for settings in recipe.choose.candidates:
        if problem := check(with_settings(recipe, settings)):
            return f"candidate {in_words(settings)}: {problem}"
    return None


def _unclipped(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with readings of sensors passed on whole where it says nothing of `clip`: nobody knows what an own graph
    was trained on.
    """
    streams = data.get("streams")
    if not isinstance(streams, dict):
        return data
    return data | {
        "streams": {
            name: {"clip": 0.0} | spec if isinstance(spec, dict) and spec.get("kind") == "sensors" else spec
            for name, spec in streams.items()
        }
    }


def _with_own_tokenizer(recipe: Recipe) -> Recipe:
    """`recipe` with its text read by the tokenizer that its pretrained network was trained with."""
    text = recipe.model.text
    spec = recipe.streams.get(text.stream) if text is not None else None
    if text is None or text.kind != "pretrained" or not isinstance(spec, TextStream):
        return recipe
    kind = tokenizer_kind_of(text) or spec.tokenizer
    own = msgspec.structs.replace(spec, tokenizer=kind)
    return msgspec.structs.replace(recipe, streams={**recipe.streams, text.stream: own})


def _trained_beside(recipe: Recipe, base: Path) -> Recipe:
    """`recipe` with the paths of pretrained weights and of mined folders made absolute."""
    found = {}
    for name, encoder in recipe.model.encoders.items():
        if isinstance(encoder, PretrainedKeys):
            files = {key: str(base / path) for key in FILES if (path := getattr(encoder, key, ""))}
            found[name] = msgspec.structs.replace(encoder, **files)
    mined = msgspec.structs.replace(recipe.mined, folders=tuple(str(base / name) for name in recipe.mined.folders))
    return msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, **found), mined=mined)


def _beside(recipe: OnnxRecipe, base: Path) -> OnnxRecipe:
    """`recipe` with its files' paths made absolute."""
    model = recipe.onnx
    stages = tuple(msgspec.structs.replace(stage, file=str(base / stage.file)) for stage in model.stages)
    tokenizer = str(base / model.tokenizer) if model.tokenizer else ""
    return msgspec.structs.replace(recipe, onnx=msgspec.structs.replace(model, stages=stages, tokenizer=tokenizer))
