"""`build-engines grammar`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.errors import UserError

if TYPE_CHECKING:
    from build_engines.recipe import AnyRecipe

_PATH = click.Path(path_type=Path)


@click.command("grammar")
@click.argument("recipe_file", metavar="RECIPE", type=_PATH)
@click.option("--data", type=_PATH, required=True, help="Data folder.")
@click.option("--split", default="train", show_default=True, help="Folder in the data folder.")
@click.option("--lang", default="en", show_default=True, help="Sentences of this language, or of none that is told.")
@click.option("--out", type=_PATH, required=True, help="Write the grammar here.")
def grammar_command(recipe_file: Path, data: Path, split: str, lang: str, out: Path) -> None:
    """Write the sentences that RECIPE's text model is trained on as a grammar, to be shortened by hand: for `grammar`
    in the recipe, or in the configuration of a source of kind `voice`.
    """
    from build_engines.recipe import Recipe, load_recipe
    from edge_runtime.voice.grammar import parse, write

    recipe, _ = load_recipe(recipe_file)
    rules = recipe.opposites if isinstance(recipe, Recipe) else ()
    pairs = dict.fromkeys(tuple(pair) for rule in rules for pair in rule.words if all(word.isascii() for word in pair))
    text = write(_sentences(recipe, data, split, lang), pairs)
    if out.exists():
        raise UserError(f"{out} exists; choose another name")
    grammar = parse(text, str(out))
    out.write_text(text, encoding="utf-8")
    click.echo(f"{out}: {len(grammar.sentences)} sentences, {len(grammar.opposites)} pairs of opposites")


def _sentences(recipe: AnyRecipe, data: Path, split: str, lang: str) -> Iterator[str]:
    from build_engines.data.datasets import layout_of_recipe
    from edge_runtime.messages import Words

    for group in layout_of_recipe(recipe).read(data, split, recipe.streams):
        for message in group.messages:
            content = message.content if isinstance(message.held, Words) else None
            if isinstance(content, Words) and content.lang in (None, lang):
                yield content.text
