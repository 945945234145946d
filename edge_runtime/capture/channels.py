"""What sources check that name channels in the configuration."""

from __future__ import annotations

from collections.abc import Iterable

from edge_runtime.errors import ConfigError
from edge_runtime.specs import SensorStream


def check_channels(source: str, stream: str, names: Iterable[str], spec: SensorStream) -> None:
    """Raises ConfigError for the first of `names` that is no channel of the stream; `source`: the kind, to be named."""
    known = [channel.name for channel in spec.channels]
    for name in names:
        if name not in known:
            raise ConfigError(f"source {source}: stream {stream} has no channel {name!r}; there are {', '.join(known)}")
