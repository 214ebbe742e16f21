"""What a request shows before anything is believed: its one bearer token, and whether its path is open to all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tenant_middleware.errors import AuthenticationError, ConfigurationError

# RFC 6750's b64token; a comma or a second word, as in merged headers, is outside of it
_BEARER = re.compile(rb"bearer +([A-Za-z0-9\-._~+/]+=*)", re.IGNORECASE)
_PLAIN_PATH = re.compile(r"/(?:[A-Za-z0-9_~.-]+(?:/[A-Za-z0-9_~.-]+)*/?)?")


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The token of the one Authorization header; none, two or an unreadable one is a refusal."""
    values = [value for name, value in headers if name.lower() == b"authorization"]
    if not values:
        raise AuthenticationError("expected the header Authorization: Bearer TOKEN", rule="missing")
    if len(values) > 1:
        raise AuthenticationError("expected one Authorization header, got several", rule="duplicate")
    match = _BEARER.fullmatch(values[0].strip(b" \t"))
    if match is None:
        raise AuthenticationError("expected the header Authorization: Bearer TOKEN and nothing else", rule="scheme")
    return match[1].decode("ascii")


class OpenPaths:
    """Paths that need no tenant, each spelled out: no prefixes, no patterns, no normalising.

    A request is open when its path, as the server decoded it and as it came, is one of them character by character.
    Every other spelling (`//`, `..`, a trailing slash, another case, percent-encoding) needs a token.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        if isinstance(paths, str):
            raise ConfigurationError("open_paths: expected a list of paths, got one string")
        self._paths = frozenset(map(_check_path, paths))

    def __contains__(self, scope: Any) -> bool:
        path, raw = scope.get("path"), scope.get("raw_path")
        return path in self._paths and (raw is None or raw == path.encode("ascii"))


def _check_path(path: object) -> str:
    plain = isinstance(path, str) and _PLAIN_PATH.fullmatch(path) is not None
    if not plain or not isinstance(path, str) or {".", ".."} & set(path.split("/")):
        raise ConfigurationError(
            "open_paths: expected plain absolute paths such as /health, without patterns, %, //, . or .. steps; "
            f"got {path!r}"
        )
    return path
