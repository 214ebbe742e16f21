"""A serialised workflow Context is restored by the tenant and subject it was taken from, and by nobody else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step
from workflows.context.serializers import PickleSerializer

from tenant_middleware.context import scope
from tenant_middleware.errors import ConfigurationError, InvalidInput, MissingTenant, TenantMismatch
from tenant_middleware.llamaindex.state import dump_context, load_context
from tenant_middleware.tenant import Tenant

SECRET = b"not a secret: for tests only"


class Counting(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        seen = await ctx.store.get("seen", default=[])
        await ctx.store.set("seen", [*seen, ev.word])
        return StopEvent(result=[*seen, ev.word])


async def taken(tenant: Tenant) -> tuple[Counting, dict[str, Any]]:
    workflow = Counting()
    async with scope(tenant):
        context: Context[Any] = Context(workflow)
        await workflow.run(word=f"canary of {tenant.id}", ctx=context)
        return workflow, json.loads(json.dumps(dump_context(context, secret=SECRET)))


async def test_the_owner_goes_on_and_another_tenant_does_not(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    workflow, data = await taken(a)
    async with scope(a):
        again: Any = await workflow.run(word="again", ctx=load_context(workflow, data, secret=SECRET))
        assert again == [f"canary of {a.id}", "again"]
    for other in (b, replace(a, subject="another")):
        async with scope(other):
            with pytest.raises(TenantMismatch) as caught:
                load_context(workflow, data, secret=SECRET)
            assert "canary" not in str(caught.value)
    with pytest.raises(MissingTenant):
        load_context(workflow, data, secret=SECRET)


async def test_the_bare_framework_restores_it_for_anybody(pair: tuple[Tenant, Tenant]) -> None:
    workflow, data = await taken(pair[0])
    async with scope(pair[1]):
        again: Any = await workflow.run(word="again", ctx=Context.from_dict(workflow, data["context"]))
    assert again[0] == f"canary of {pair[0].id}"


async def test_a_stamp_cannot_be_moved_or_left_out(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    workflow, data = await taken(a)
    _, mine = await taken(b)
    async with scope(b):
        for forged in ({**data, "tenant_middleware": mine["tenant_middleware"]}, {"context": data["context"]}):
            with pytest.raises(TenantMismatch):
                load_context(workflow, forged, secret=SECRET)
        with pytest.raises(InvalidInput):
            load_context(workflow, {}, secret=SECRET)


async def test_a_pickling_serializer_is_refused(acme: Tenant) -> None:
    workflow, data = await taken(acme)
    async with scope(acme):
        with pytest.raises(ConfigurationError, match="pickle"):
            load_context(workflow, data, secret=SECRET, serializer=PickleSerializer())
