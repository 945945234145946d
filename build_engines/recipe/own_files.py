"""Files of one's own that a model to be trained is made of."""

from __future__ import annotations

from build_engines.artefacts import digest
from build_engines.modalities import modality_of_encoder
from build_engines.recipe.recipe import AnyRecipe, Recipe


def own_files(recipe: AnyRecipe) -> dict[str, list[str]]:
    """Encoder to the sha256 of each of its own files: of networks and tokenizers that the recipe names by path. Raises
    UserError for a broken one."""
    if not isinstance(recipe, Recipe):
        return {}
    found = {name: modality_of_encoder(keys).files(keys) for name, keys in recipe.model.encoders.items()}
    return {name: [digest(path) for path in files] for name, files in found.items() if files}
