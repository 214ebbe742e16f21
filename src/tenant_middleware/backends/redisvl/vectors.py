"""Documents on Redis with the Query Engine: one shared HNSW index with a tenant pre-filter, or an index per tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from tenant_middleware.backends.redis.clients import Clients, unavailable
from tenant_middleware.backends.redisvl.vector_steps import METRICS, STORE, Batch, Command, Flow, Setup, Steps
from tenant_middleware.errors import ConfigurationError, TenancyError, missing_extra
from tenant_middleware.flow import adrive, drive
from tenant_middleware.isolation import stepped
from tenant_middleware.isolation.filters import check_field
from tenant_middleware.isolation.scoped import IsolationFor, ScopedVectors
from tenant_middleware.policy import Isolation

try:
    from redis.exceptions import RedisError
except ImportError as error:
    raise missing_extra("redisvl", __name__) from error

R = TypeVar("R")


class RedisVectors(ScopedVectors):
    """Vectors on one Redis: `filter` shares an index, `namespace` and `silo` give each tenant its own.

    The first record decides an index's dimension. `numeric` names the fields that ranges (`$gt`...) may ask for, also
    as `redis://...?numeric=year,price`; equality works on every field. On a cluster a search sees one shard only, so
    there each tenant has an index of its own, beside its keys, and a shared one is refused.
    """

    def __init__(
        self,
        url: str,
        *,
        isolation: Isolation | IsolationFor = "filter",
        name: str = "tm_docs",
        numeric: Sequence[str] = (),
        dimension: int | None = None,
        metric: Literal["cosine", "dotproduct", "euclidean"] = "cosine",
        m: int = 16,
        ef_construction: int = 200,
        ef_runtime: int = 64,
        timeout: float = 5.0,
    ) -> None:
        if metric not in METRICS:
            raise ConfigurationError(f"metric: expected one of {', '.join(METRICS)}")
        address, more = _split(url)
        fields = tuple(dict.fromkeys(map(check_field, (*numeric, *more))))
        clients = Clients(address, timeout=timeout)
        kinds: tuple[Isolation, ...] = ("namespace", "silo") if clients.in_cluster else ("namespace", "filter", "silo")
        if clients.in_cluster and isolation == "filter":
            raise ConfigurationError(
                "isolation 'filter': on a Redis Cluster a search sees one shard only; use 'namespace', which gives "
                "each tenant an index beside its keys"
            )
        setup = Setup(name, metric, fields, m, ef_construction, ef_runtime, round(timeout * 2000))
        steps = Steps(setup, dimension, shared="filter" in kinds)
        runner = _Runner(clients)
        super().__init__(
            stepped.driver(steps, runner.run, kinds, clients.close),
            stepped.async_driver(steps, runner.arun, clients.aclose),
            isolation=isolation,
        )


def _split(url: str) -> tuple[str, list[str]]:
    """The URL that Redis clients know, and the numeric fields it names."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    fields = [name for value in query.pop("numeric", []) for name in value.split(",") if name]
    return urlunsplit(parts._replace(query=urlencode(query, doseq=True))), fields


class _Runner:
    """Runs the flows on one URL's clients, plainly or by awaiting; the client's errors leave as ours."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def run(self, flow: Flow[R]) -> R:
        client = self._clients.sync
        try:
            return drive(flow, lambda step: self._sent(client, step))
        except (RedisError, OSError) as error:
            refusal: TenancyError = unavailable(STORE, error)
        raise refusal  # outside every handler: the client's text may hold content

    async def arun(self, flow: Flow[R]) -> R:
        client = self._clients.here()
        try:
            if self._clients.in_cluster:
                await client.initialize()  # at most once: who has which slot is known before a node is picked
            return await adrive(flow, lambda step: self._sent(client, step))
        except (RedisError, OSError) as error:
            refusal: TenancyError = unavailable(STORE, error)
        raise refusal  # outside every handler: the client's text may hold content

    def _sent(self, client: Any, op: Command | Batch) -> Any:
        """The reply, or from an async client what to await for it."""
        if isinstance(op, Command):
            return client.execute_command(*op.words, **self._target(client, op))
        batch = client.pipeline() if self._clients.in_cluster else client.pipeline(transaction=False)
        for command in op.commands:
            batch.execute_command(*command.words)
        return batch.execute(raise_on_error=False)

    def _target(self, client: Any, command: Command) -> dict[str, Any]:
        """On a cluster, the node that has the tenant's slot: searches name no key the client could go by."""
        if not self._clients.in_cluster or not command.words[0].startswith("FT."):
            return {}
        return {"target_nodes": client.get_node_from_key(f"{{{command.place.stamp}}}")}
