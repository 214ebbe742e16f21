"""A shared pool whose time is the test's, and nobody listens: grants are fetched when the test asks."""

from __future__ import annotations

from redis import Redis

from tenant_middleware.admission.queue import Ticket
from tenant_middleware.admission.queueing.pools import PoolRule
from tenant_middleware.admission.queueing.signal import ThreadSignal
from tenant_middleware.backends.redis.links import Links
from tenant_middleware.backends.redis.queue import _SCRIPT
from tenant_middleware.backends.redis.shared_pool import Lease, Server, SharedPool
from tenant_middleware.backends.redis.steps import Nodes
from tenant_middleware.tenant import Tenant

FOREVER = 1e9


class Scripted:
    """`queue.lua`, one verb at a time."""

    def __init__(self, url: str, rule: PoolRule, *, worker: str = "w", lease: float = FOREVER) -> None:
        self.client = Redis.from_url(url)
        self.links = Links(url, 5.0)
        self.now = 1000.0
        server = Server(Nodes(self.links.first), _SCRIPT)
        self.pool = SharedPool(rule, worker, lease, server, lambda: None, now=lambda: self.now)

    def push(self, tenant: str, prompt: int, output: int, weight: float = 1.0, timeout: float = FOREVER) -> Lease:
        ticket = Ticket(Tenant(tenant, "free"), "", "m", prompt, output, weight, timeout)
        lease = self.pool.lease(ticket, ThreadSignal(), 0.0)
        self.links.run(self.pool.enter(lease))
        return self.fetched(lease)

    def park(self, lease: Lease, seconds: float) -> None:
        self.links.run(self.pool.park(lease, seconds, self.now))
        self.fetched(lease)

    def progress(self, lease: Lease, output: int) -> None:
        self.links.run(self.pool.progress(lease, output))
        self.fetched(lease)

    def leave(self, lease: Lease, prompt: int = 0, output: int = 0) -> None:
        self.links.run(self.pool.leave(lease, prompt, output))
        self.fetched(lease)

    def tick(self) -> None:
        self.links.run(self.pool.tick())
        self.fetched()

    def fetched(self, lease: Lease | None = None) -> Lease:
        """Hear of every grant so far."""
        for word in self.client.lpop(self.pool.box, 10_000) or ():
            self.pool.told(word.decode())
        return lease  # type: ignore[return-value]  # the caller's own

    def close(self) -> None:
        self.client.delete(*self.client.keys(f"{self.pool.key}*"), "nothing")
        self.client.close()
        self.links.close()
