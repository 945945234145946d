"""Who may look at the page: everybody on this host, or whoever has the token."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from edge_runtime.errors import ConfigError
from edge_runtime.secret_file import first_line

LEAST_CHARACTERS = 16


def read_token(path: Path) -> str:
    """The token in the file at `path`. Raises ConfigError; it never holds the token."""
    token = first_line(path, "token_file").strip()
    if len(token) < LEAST_CHARACTERS or not token.isascii():
        raise ConfigError(
            f"token_file {path}: a token has at least {LEAST_CHARACTERS} characters, all ASCII; "
            f"openssl rand -hex 16 > {path} makes one"
        )
    return token


class Access:
    """One page's. Any thread; what is compared takes the same time whatever it is."""

    def __init__(self, token: str | None, cookie: str, encrypted: bool = False) -> None:
        """Without a `token` whoever calls the page by a name of this host's own is let in: a page of another site,
        whose name its owner has made to lead here, is not. `cookie`: its name."""
        self.asks = token is not None
        self._token = (token or "").encode()
        self._session = secrets.token_urlsafe(32)
        """What a browser shows that has shown the token; of this process only."""
        self._cookie = cookie
        self._secure = "; Secure" if encrypted else ""

    def allows(self, host: str | None, cookies: str | None, authorization: str | None) -> bool:
        """Whether a request with these headers is let in."""
        if not self.asks:
            return host is not None and _is_own(host)
        scheme, _, shown = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and self._same(shown.strip(), self._token):
            return True
        shown = next((value for name, value in _pairs(cookies or "") if name == self._cookie), "")
        return self._same(shown, self._session.encode())

    def enter(self, token: str) -> str | None:
        """The header `Set-Cookie` for who shows the right `token`; None for a wrong one."""
        if not (self.asks and self._same(token.strip(), self._token)):
            return None
        return f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict{self._secure}"

    @staticmethod
    def _same(shown: str, secret: bytes) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), secret)


def _pairs(cookies: str) -> list[tuple[str, str]]:
    parts = (part.partition("=") for part in cookies.split(";"))
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _is_own(host: str) -> bool:
    """Whether the header `Host` names this host by a loopback address or as localhost."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
