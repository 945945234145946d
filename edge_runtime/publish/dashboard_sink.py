"""The page of a running service: a sink that is shown messages too (`[dashboard]`).

The loop leaves references in the page's feed and goes on: nothing is encoded, copied or waited for there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_runtime import config
from edge_runtime.dashboard.feed import Feed
from edge_runtime.dashboard.server import Dashboard
from edge_runtime.dashboard.tail import Tail
from edge_runtime.messages import Message
from edge_runtime.publish.sink import Published, Sink
from edge_runtime.streams import StreamSpec
from edge_runtime.wire import BundleId


class DashboardSink(Sink):
    """Serves the page from the start on."""

    def __init__(self, row: config.DashboardSink) -> None:
        """Raises ConfigError for an address, token or certificate that cannot be used."""
        self._tail = Tail()
        self._feed = Feed(self._tail, with_pictures=True)
        try:
            files = (Path(name) if name else None for name in (row.token_file, row.certificate, row.key))
            self._dashboard = Dashboard(self._feed, row.bind, *files)
        except BaseException:
            self._tail.close()
            raise
        self.endpoint = self._dashboard.endpoint

    def session(self, config: config.Config, bundle: BundleId, streams: Mapping[str, StreamSpec]) -> None:
        # A bundle that was installed lies in its slot, beside what says so of it and of the other.
        self._feed.slots = None if config.bundle.startswith("shipped:") else Path(config.bundle).parent

    def message(self, message: Message) -> None:
        self._feed.took(message)

    @property
    def wants_whole(self) -> bool:
        return self._feed.watched

    def publish(self, item: Published) -> None:
        self._feed.publish(item.message)

    def close(self) -> None:
        self._dashboard.close()
        self._tail.close()
