from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.cluster import RedisCluster

from tenant_middleware.admission.queue import FairQueue
from tenant_middleware.admission.queueing.pools import Pools
from tenant_middleware.backends.redis.queue import RedisQueue
from tenant_middleware.testing.queue import FairQueueContract


class TestRedisQueue(FairQueueContract):
    made: list[RedisQueue]
    url: str

    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str) -> Iterator[None]:
        self.url, self.made = redis_url, []
        yield
        for queue in self.made:
            queue.close()

    def make(self, pools: Pools) -> FairQueue:
        queue = RedisQueue(self.url, pools, grace=0.0, timeout=5.0)
        self.made.append(queue)
        return queue


@pytest.mark.services
class TestClusterQueue(FairQueueContract):
    made: list[RedisQueue]
    url: str

    @pytest.fixture(autouse=True)
    def _server(self, cluster: str) -> Iterator[None]:
        self.url, self.made = cluster.replace("redis://", "redis+cluster://"), []
        with RedisCluster.from_url(cluster) as client:
            client.flushall(target_nodes="primaries")
        yield
        for queue in self.made:
            queue.close()

    def make(self, pools: Pools) -> FairQueue:
        queue = RedisQueue(self.url, pools, grace=0.0, timeout=5.0)
        self.made.append(queue)
        return queue
