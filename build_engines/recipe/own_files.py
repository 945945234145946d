"""Files of one's own that a model to be trained is made of, beside its data folder."""

from __future__ import annotations

from pathlib import Path

from build_engines.artefacts import digest
from build_engines.modalities import modality_of_encoder
from build_engines.recipe.recipe import AnyRecipe, Recipe


def own_files(recipe: AnyRecipe) -> dict[str, list[str]]:
    """Encoder to the sha256 of each of its own files: of networks and tokenizers that the recipe names by path; and
    `mined` to that of each such folder. Raises UserError for a broken one."""
    if not isinstance(recipe, Recipe):
        return {}
    found = {name: modality_of_encoder(keys).files(keys) for name, keys in recipe.model.encoders.items()}
    found["mined"] = tuple(map(Path, recipe.mined.folders))
    return {name: [digest(path) for path in files] for name, files in found.items() if files}
