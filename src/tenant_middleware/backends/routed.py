"""One backend for most tenants and others for a few: a call goes where the policy says its tenant lives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tenant_middleware.errors import InvalidInput
from tenant_middleware.tenant import Tenant


class Routed:
    """Stands in for a backend protocol whose methods take a Tenant first; each call picks that tenant's backend.

    `part` routes to an attribute of the backends instead of the backends themselves.
    """

    def __init__(self, pick: Callable[[Tenant], Any]) -> None:
        self._pick = pick

    def part(self, name: str) -> Any:
        """A router over one attribute of the backends, such as a cache's knowledge versions."""
        return Routed(lambda tenant: getattr(self._pick(tenant), name))

    @property
    def versions(self) -> Any:
        """The knowledge versions beside each tenant's cache."""
        return self.part("versions")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def routed(tenant: Tenant, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(tenant, Tenant):
                raise InvalidInput(f"{name}: expected a Tenant first, got {type(tenant).__name__}")
            return getattr(self._pick(tenant), name)(tenant, *args, **kwargs)

        return routed


def backend_of(backend: Any, tenant: Tenant) -> Any:
    """What serves this tenant: the backend itself, or the one behind a router that its policy names."""
    return backend._pick(tenant) if isinstance(backend, Routed) else backend


class Watched:
    """A backend whose every call for a tenant is checked first: for stores that ask the policy nothing themselves."""

    def __init__(self, inner: Any, check: Callable[[str], None]) -> None:
        self._inner, self._check = inner, check

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name.startswith("_") or not callable(method):
            return method

        @functools.wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], Tenant):
                self._check(args[0].id)
            return method(*args, **kwargs)

        return watched
