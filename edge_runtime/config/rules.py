"""What rows of a configuration have in common."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edge_runtime import endpoints
from edge_runtime.errors import ConfigError
from edge_runtime.extras import need

SHIPPED = "shipped:"
"""Before the name of what came with the package."""

Mode = Annotated[str, Meta(pattern="^0?[0-7]{3}$")]
"""Who may use a Unix socket, as for chmod: `0660` its user and group, `0666` everybody."""


def check_address(bind: str, keys: str, insecure: bool, where: str) -> None:
    """Of a socket for which keys may say who gets in. Raises ConfigError."""
    if not keys:
        endpoints.check(bind, insecure)
        return
    need(f"{where}: keys", "curve", nacl="PyNaCl")
    endpoints.parse(bind)


def check_tcp(bind: str, where: str) -> endpoints.Tcp:
    """Raise ConfigError for what is no TCP address."""
    endpoint = endpoints.parse(bind)
    if not isinstance(endpoint, endpoints.Tcp):
        raise ConfigError(f"{where}: bind is {bind!r}; expected tcp://ADDRESS:PORT")
    return endpoint
