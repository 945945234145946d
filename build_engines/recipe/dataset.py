"""The keys of `[dataset]`, `[mined]` and `[world]`: what the data's fields mean, what else to learn from, and what to
record."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from build_engines.bounds import NotNegative
from edge_runtime.streams import Count, Positive


class DatasetRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What the fields of a `samples.jsonl` mean. A field within a field is written with a dot: `labels.action`."""

    label: str = "label"
    """Field of the label; empty = rows have none, as for a regression head."""
    targets: dict[str, str] = {}
    """Value of a regression head to the field that holds it, a number in the value's unit."""
    side_labels: dict[str, str] = {}
    """Name of a head beside the first, one with labels, to the field of its label."""
    group: str | tuple[str, ...] = ()
    """The field, or fields, that rows share which are not independent: a block of a drive, a patient, near doubles.
    Intervals are drawn over these groups, and none may be in two splits.
    """
    fields: dict[str, str] = {}
    """Stream to the field that holds it, where that is not `image`, `sensors`, `text` or `audio`: several cameras, say.
    """
    condition: str = ""
    """Field that tells circumstances apart (day, night) which are also scored one by one."""
    values: dict[str, str] = {}
    """Value of the label field to the label; empty = the value is the label. For a sigmoid head, `none` = no label."""
    categories: dict[str, dict[str, float]] = {}
    """Channel to the number that stands for each word of it."""
    aux: dict[str, str] = {}
    """Auxiliary label of a modality to its field; its classes are the training split's values, in order."""
    bins: dict[str, tuple[float, ...]] = {}
    """Auxiliary label whose field is a number to the edges of its classes, which are then called `0`, `1`, ..."""

    moments: str = ""
    """For recordings: the stream whose messages are the moments; empty = the first camera, or else the first stream."""
    every_ms: NotNegative = 0.0
    """For recordings: at most one moment in so long; frames that follow each other tell little more than one."""
    exclude: tuple[str, ...] = ()
    """Ids of rows that are left out of every split, e.g. ones that the data holds a second time."""

    @property
    def groups(self) -> tuple[str, ...]:
        return (self.group,) if isinstance(self.group, str) else self.group


PLAIN_DATASET = DatasetRecipe()
"""Fields that mean what they are called."""


class MinedRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What a fleet's recordings were found to lack, labelled: learned beside the training split."""

    folders: tuple[str, ...] = ()
    """As `build-engines mine --labelled` fills them, relative to the recipe."""
    times: Count = 1
    """How often an epoch gives each of their moments: a few among many thousands are hardly learned."""


class WorldRecipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What to record of the built-in world where the data folder is absent."""

    train_episodes: Count = 60
    """Recorded drives to learn from."""
    val_episodes: Count = 15
    """Recorded drives to judge by."""
    seconds: Positive = 40.0
    """Length of a drive."""
    camera_hz: Positive = 3.0
    """Frames a second that are kept of a drive."""
    learner_episodes: Annotated[int, Meta(ge=0)] = 0
    """Drives of the trained bundle itself, labelled by the expert, to train once more on (DAgger); 0 = none."""
    learner_epochs: Count = 4
    """Epochs of that second training."""
    learner_rate: Positive = 5e-4
    """Its learning rate."""
