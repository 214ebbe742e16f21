"""Documents in Pinecone: a namespace per tenant, one shared namespace with a pre-filter, or an index of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tenant_middleware.errors import ConfigurationError, missing_extra

try:
    import pinecone  # noqa: F401  says which extra is missing before anything else fails
except ImportError as error:
    raise missing_extra("pinecone", __name__) from error

from tenant_middleware.backends.pinecone.clients import AsyncClients, Clients
from tenant_middleware.backends.pinecone.steps import Setup, Steps
from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.isolation import stepped
from tenant_middleware.isolation.scoped import IsolationFor, ScopedVectors
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant

__all__ = ["PineconeVectors"]


class PineconeVectors(ScopedVectors):
    """Vectors on Pinecone's serverless indexes, over the REST API.

    `index` must exist; for `silo` it is the template of the tenants' own. `host` is its data-plane host (it saves the
    look-up, and leaves out silos unless a `controller` is named), `controller` the control plane's. `project_key` gives
    a tenant's own API key, so that its silo lies in a project that no other key reaches. `kinds` are those ever in use
    here: a tenant's other places are looked at once, before its first call. Every call ends within `deadline` seconds;
    with `read_your_writes` a write waits that long until reads show it.
    """

    def __init__(
        self,
        index: str,
        *,
        api_key: str,
        host: str | None = None,
        isolation: Isolation | IsolationFor = "namespace",
        controller: str | None = None,
        kinds: tuple[Isolation, ...] | None = None,
        project_key: Callable[[Tenant], str] | None = None,
        dimension: int | None = None,
        metric: Literal["cosine", "dotproduct", "euclidean"] | None = None,
        deadline: float = 10.0,
        read_your_writes: float | None = None,
        settle_within: float = 30.0,
        ready_within: float = 120.0,
        clock: Clock | None = None,
    ) -> None:
        if not index or not api_key:
            raise ConfigurationError("PineconeVectors: expected the name of an index and an API key")
        reachable: tuple[Isolation, ...] = ("namespace", "filter", "silo")
        if host and not controller:
            reachable = ("namespace", "filter")
        time = clock or SystemClock()
        setup = Setup(index, api_key, host, project_key, read_your_writes, settle_within, ready_within)
        self._steps = Steps(setup, time, dimension, metric)
        self._clients = Clients(controller, deadline, time)
        self._async_clients = AsyncClients(controller, deadline, time)
        super().__init__(
            stepped.driver(self._steps, self._clients.run, kinds or reachable, self._clients.close),
            stepped.async_driver(self._steps, self._async_clients.run, self._async_clients.close),
            isolation=isolation,
        )

    def audit(self) -> list[str]:
        """What an operator should look at: records in the default namespace belong to no tenant."""
        return _findings(self._clients.run(self._steps.in_default_namespace()))

    async def aaudit(self) -> list[str]:
        """`audit`, by awaiting."""
        return _findings(await self._async_clients.run(self._steps.in_default_namespace()))


def _findings(in_default: int) -> list[str]:
    if not in_default:
        return []
    return [f"{in_default} records lie in the default namespace: a writer bypasses tenant_middleware"]
