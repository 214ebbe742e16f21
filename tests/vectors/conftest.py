"""What tests of Pinecone share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pinecone._internal import http_client

from tenant_middleware.testing.vectors import DIMENSION
from tests.pinecone_server.app import PineconeServer
from tests.vectors.backends import INDEX


@pytest.fixture
def server() -> Iterator[PineconeServer]:
    with PineconeServer() as running:
        running.create_index(INDEX, DIMENSION)
        yield running


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's pauses between its own attempts, by the seam it keeps for tests, and a fresh retry budget."""

    async def soon(seconds: float) -> None:
        return None

    monkeypatch.setattr(http_client, "_retry_sleep", lambda seconds: None)
    monkeypatch.setattr(http_client, "_async_retry_sleep", soon)
    http_client.get_budget_registry()._reset()
