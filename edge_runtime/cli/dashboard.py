"""`edge-runtime dashboard`: a page of what a running service decides, from a process of its own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--connect", default="tcp://127.0.0.1:5560", show_default=True, help="Where decisions are published.")
@click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="This client's file of keys.")
@click.option("--name", default="", help="Only this runtime's decisions.")
@click.option("--bind", default="tcp://127.0.0.1:5562", show_default=True, help="Where the page is served.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the token that whoever looks must show; needed beyond this host.",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PEM file with certificate and key, for https; needed beyond this host.",
)
@click.option("--slots", type=click.Path(path_type=Path, file_okay=False), help="Show the slots in this folder too.")
def dashboard(
    connect: str,
    keys: Path | None,
    name: str,
    bind: str,
    token_file: Path | None,
    certificate: Path | None,
    slots: Path | None,
) -> None:
    """Serve a page of what a running service decides, and why, until stopped.

    It subscribes as anybody may, and costs the service what a subscriber does. Pictures and log are on the
    page that the service serves itself, where its configuration says so: [dashboard].
    """
    import signal
    import threading

    from edge_runtime import Subscriber
    from edge_runtime.config import DashboardSink
    from edge_runtime.dashboard.feed import Feed
    from edge_runtime.dashboard.server import Dashboard

    row = DashboardSink(bind, str(token_file or ""), str(certificate or ""))
    row.check(insecure=False, where="dashboard")
    feed = Feed(slots=slots)
    with Subscriber(connect, name, keys=keys) as subscriber:
        page = Dashboard(feed, bind, token_file, certificate, None)
        stopping = threading.Event()
        # No KeyboardInterrupt: it may come between a lock and what would let it go, and then nothing ends.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
        click.echo(f"{page.endpoint} shows {connect}")
        try:
            while not stopping.is_set():
                if (message := subscriber.receive(1.0)) is not None:
                    feed.publish(message)
        finally:
            page.close()
