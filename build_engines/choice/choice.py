"""What was chosen, on disk: `choose/choice.json` and the decisions on moments left out, `choose/left_out.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from build_engines.heads.fitted import Fitted
from build_engines.heads.prediction import Prediction
from build_engines.recipe import Recipe
from build_engines.recipe.variant import alone, with_settings
from edge_runtime.errors import UserError

CHOICE, LEFT_OUT = "choose/choice.json", "choose/left_out.jsonl"


class Trial(Struct, frozen=True):
    """One candidate."""

    name: str
    figure: float
    """Of all moments left out, each decided with what was fitted to the other folds."""
    difference: float
    """To the recipe's own."""
    error: float
    """Standard error of the difference, over groups."""
    taken: bool = False


class Choice(Struct, frozen=True):
    """What the training goes by."""

    note: str
    """In words."""
    settings: dict[str, Any] = {}
    """Keys of the recipe that were set differently."""
    alone: str = ""
    """The encoder that ships alone; empty = all of them."""
    fitted: Fitted | None = None
    """None: nothing was left out; to be fitted on the validation split."""
    trials: tuple[Trial, ...] = ()


class Decided(Struct, frozen=True):
    """A decision on a moment left out, by the whole procedure: chosen, fitted and trained without its fold."""

    fold: int
    prediction: Prediction


def write_choice(work: Path, choice: Choice, decided: Sequence[Decided]) -> None:
    """Both files, below the build's `work` folder."""
    (work / CHOICE).parent.mkdir(parents=True, exist_ok=True)
    (work / CHOICE).write_bytes(msgspec.json.format(msgspec.json.encode(choice), indent=1) + b"\n")
    (work / LEFT_OUT).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in decided))


def read_choice(work: Path) -> Choice:
    """What was chosen; nothing where the build was made without this stage. Raises UserError where it is damaged."""
    try:
        return msgspec.json.decode((work / CHOICE).read_bytes(), type=Choice)
    except FileNotFoundError:
        return Choice("nothing was chosen")
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{work / CHOICE}: cannot be read ({error}); run with --from choose") from None


def read_decided(work: Path) -> list[Decided]:
    """The decisions on moments left out; none where nothing was. Raises UserError."""
    try:
        return msgspec.json.Decoder(Decided).decode_lines((work / LEFT_OUT).read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{work / LEFT_OUT}: cannot be read ({error}); run with --from choose") from None


def as_chosen(recipe: Recipe, choice: Choice) -> Recipe:
    """`recipe` as it was chosen to be."""
    changed = with_settings(recipe, choice.settings) if choice.settings else recipe
    return alone(changed, choice.alone) if choice.alone else changed


def chosen_recipe(recipe: Recipe, work: Path) -> Recipe:
    """`recipe` as the build in `work` chose it to be; as it stands where nothing was chosen."""
    return as_chosen(recipe, read_choice(work))
