"""TenantCheckpointSaver on every backend: LangGraph's own suite, once per tenant over one saver, and each method."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver

from tenant_middleware.context import scope
from tenant_middleware.errors import IsolationBreach, MissingTenant, StoreUnavailable
from tenant_middleware.langchain import listing
from tenant_middleware.langchain.memory import TenantCheckpointSaver
from tenant_middleware.tenant import Tenant
from tests.memory.savers import BACKENDS, EXTRAS, aopened, opened

OPTIONAL = {"copy_thread", "prune", "delete_for_runs"}
CONFIG: Any = {"configurable": {"thread_id": "t"}}
Both = tuple[BaseCheckpointSaver[Any], bool]


async def failures(make: Callable[[], BaseCheckpointSaver[Any]], backend: str) -> dict[str, set[str]]:
    """LangGraph's suite: what fails, by ability."""

    @checkpointer_test(name=backend, skip_capabilities=OPTIONAL - EXTRAS.get(backend, set()))
    async def factory() -> AsyncIterator[Any]:
        yield make()

    report = await validate(factory)
    ran = {name: result for name, result in report.results.items() if result.passed is not None}
    assert len(ran) == 5 + len(EXTRAS.get(backend, ())) and all(result.tests_passed for result in ran.values())
    return {name: {f.partition(":")[0] for f in result.failures} for name, result in ran.items()}


@pytest.mark.parametrize("backend", BACKENDS)
async def test_langgraphs_own_suite_passes_for_each_tenant_over_one_saver(
    backend: str, request: pytest.FixtureRequest, pair: tuple[Tenant, Tenant]
) -> None:
    """What fails does so on the bare saver too: langgraph-checkpoint-redis has its own idea of some filters."""
    async with aopened(backend, request) as inner:
        bare = await failures(lambda: inner, backend)
        if backend != "redis":
            assert not any(bare.values())
        for tenant in pair:
            async with scope(tenant):
                assert await failures(lambda: TenantCheckpointSaver(inner), backend) == bare
        names = [found.config["configurable"]["thread_id"] async for found in inner.alist(None)]
        assert len({name.split(":")[1] for name in names if name.startswith("tm:")}) == 2, (
            "both tenants' runs lie in the one saver"
        )


@pytest.fixture(params=["sync", "async"])
def twin(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


@pytest.fixture(params=BACKENDS)
async def saver(request: pytest.FixtureRequest, twin: bool) -> AsyncIterator[TenantCheckpointSaver]:
    if twin:
        async with aopened(request.param, request) as inner:
            yield TenantCheckpointSaver(inner)
    else:
        with opened(request.param, request) as inner:
            yield TenantCheckpointSaver(inner)


class Calls:
    """The saver's methods by their plain names, sync or awaited."""

    def __init__(self, saver: BaseCheckpointSaver[Any], twin: bool) -> None:
        self._saver, self._twin = saver, twin

    async def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        found = getattr(self._saver, f"a{name}" if self._twin else name)(*args, **kwargs)
        if inspect.isawaitable(found):
            return await found
        if name == "list":
            return [each async for each in found] if self._twin else list(found)
        return found


async def chain(do: Calls, texts: list[str], *, thread: str = "t", run: str = "r") -> list[Any]:
    """Checkpoints of one thread, each with a write, newest last; their configs."""
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    made = []
    for step, text in enumerate(texts):
        checkpoint = {**empty_checkpoint(), "id": str(uuid6(clock_seq=step))}
        config = await do("put", config, checkpoint, {"source": "loop", "step": step, "run_id": run}, {})
        await do("put_writes", config, [("messages", text)], f"task-{step}")
        made.append(config)
    return made


async def texts(do: Calls, thread: str = "t") -> list[str]:
    found = await do("list", {"configurable": {"thread_id": thread}})
    return [write[2] for one in reversed(found) for write in one.pending_writes or ()]


def able(saver: TenantCheckpointSaver, name: str) -> bool:
    return getattr(type(saver.inner), name) is not getattr(BaseCheckpointSaver, name)


async def test_reads_and_listings(saver: TenantCheckpointSaver, twin: bool, pair: tuple[Tenant, Tenant]) -> None:
    do = Calls(saver, twin)
    for tenant in pair:
        async with scope(tenant):
            await chain(do, [f"canary of {tenant.id}", "two"])
    for tenant in pair:
        async with scope(tenant):
            assert await texts(do) == [f"canary of {tenant.id}", "two"]
            newest = await do("get_tuple", CONFIG)
            assert (
                newest.config["configurable"]["thread_id"] == "t" == newest.parent_config["configurable"]["thread_id"]
            )
            everything = await do("list", None)
            assert len(everything) == 2 and {f.config["configurable"]["thread_id"] for f in everything} == {"t"}
            assert len(await do("list", None, limit=1)) == 1
            assert len(await do("list", None, filter={"source": "loop"})) == 2
            assert await do("list", None, filter={"source": "input"}) == []


async def test_deletion(saver: TenantCheckpointSaver, twin: bool, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    do = Calls(saver, twin)
    for tenant in pair:
        async with scope(tenant):
            await chain(do, [f"canary of {tenant.id}"])
            await chain(do, ["more"], thread="u")
    async with scope(a):
        await do("delete_thread", "t")
        assert await texts(do) == [] and await texts(do, "u") == ["more"]
        assert await do("clear_tenant") == 1 and await do("list", None) == []
    async with scope(b):
        assert await texts(do) == [f"canary of {b.id}"] and await texts(do, "u") == ["more"]


async def test_copying(saver: TenantCheckpointSaver, twin: bool, pair: tuple[Tenant, Tenant]) -> None:
    """Both ends are the tenant's own: a foreign thread has nothing to copy, and none is written to."""
    a, b = pair
    do = Calls(saver, twin)
    async with scope(a):
        await chain(do, ["canary of a", "two"])
    async with scope(b):
        if not able(saver, "copy_thread"):
            with pytest.raises(NotImplementedError):
                await do("copy_thread", "t", "copy")
            return
        await do("copy_thread", "t", "copy")
        assert await do("list", None) == []
        await chain(do, ["of b"], thread="copy")
    async with scope(a):
        await do("copy_thread", "t", "copy")
        assert await texts(do, "copy") == ["canary of a", "two"] == await texts(do)
    async with scope(b):
        assert await texts(do, "copy") == ["of b"]


async def test_pruning(saver: TenantCheckpointSaver, twin: bool, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    do = Calls(saver, twin)
    for tenant in pair:
        async with scope(tenant):
            await chain(do, ["one", "two", "three"])
    async with scope(a):
        if not able(saver, "aprune" if twin else "prune"):
            with pytest.raises(NotImplementedError):
                await do("prune", ["t"])
            return
        await do("prune", ["t"])
        assert len(await do("list", CONFIG)) == 1
    async with scope(b):
        assert len(await do("list", CONFIG)) == 3
        await do("prune", ["t"], strategy="delete")
        assert await do("list", CONFIG) == []
    async with scope(a):
        assert len(await do("list", CONFIG)) == 1


async def test_deletion_by_run(saver: TenantCheckpointSaver, twin: bool, pair: tuple[Tenant, Tenant]) -> None:
    """Run ids of two tenants may be equal, and a guessed one reaches nobody."""
    a, b = pair
    do = Calls(saver, twin)
    for tenant in pair:
        async with scope(tenant):
            await chain(do, ["one"], run="r")
            await chain(do, ["two"], thread="u", run="s")
            assert (await do("get_tuple", CONFIG)).metadata["run_id"] == "r"
            assert len(await do("list", None, filter={"run_id": "r"})) == 1
    async with scope(a):
        if not able(saver, "delete_for_runs"):
            with pytest.raises(NotImplementedError):
                await do("delete_for_runs", ["r"])
            return
        await do("delete_for_runs", ["r", saver.inner.list(None).__next__().metadata["run_id"]])
        assert await texts(do) == [] and await texts(do, "u") == ["two"]
    async with scope(b):
        assert await texts(do) == ["one"] and await texts(do, "u") == ["two"]


async def test_the_history_of_a_channel(saver: TenantCheckpointSaver, twin: bool, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    do = Calls(saver, twin)
    configs = {}
    for tenant in pair:
        async with scope(tenant):
            configs[tenant] = (await chain(do, [f"canary of {tenant.id}", "two", "three"]))[-1]
    for tenant, other in ((a, b), (b, a)):
        async with scope(tenant):
            found = await do("get_delta_channel_history", config=configs[tenant], channels=["messages"])
            assert [write[2] for write in found["messages"]["writes"]] == [f"canary of {tenant.id}", "two"]
            foreign = await do("get_delta_channel_history", config=configs[other], channels=["messages"])
            assert foreign["messages"]["writes"] == []


async def test_every_method_needs_a_tenant(saver: TenantCheckpointSaver, twin: bool) -> None:
    do = Calls(saver, twin)
    empty: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for name, args, kwargs in (
        ("get_tuple", (CONFIG,), {}),
        ("list", (None,), {}),
        ("put", (empty, empty_checkpoint(), {}, {}), {}),
        ("put_writes", ({"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "c"}}, [], "k"), {}),
        ("delete_thread", ("t",), {}),
        ("copy_thread", ("t", "u"), {}),
        ("prune", (["t"],), {}),
        ("delete_for_runs", (["r"],), {}),
        ("get_delta_channel_history", (), {"config": CONFIG, "channels": ["messages"]}),
        ("clear_tenant", (), {}),
    ):
        with pytest.raises(MissingTenant):
            await do(name, *args, **kwargs)


def test_no_method_of_the_interface_is_left_to_the_base_class() -> None:
    """A method that LangGraph adds would go past the tenant, or past the inner saver."""
    public = {name for name, value in vars(BaseCheckpointSaver).items() if not name.startswith("_") and callable(value)}
    ours = set(vars(TenantCheckpointSaver))
    left = public - ours - {"get", "aget"}  # these two call get_tuple and aget_tuple
    assert left == set()


async def test_a_listing_that_may_be_cut_is_an_error(
    request: pytest.FixtureRequest, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis's saver can't filter by tenant: past its bound a tenant's own threads would silently be missing."""
    monkeypatch.setattr(listing, "EVERYBODYS", 3)
    for twin, opening in ((True, aopened),):
        async with opening("redis", request) as inner:
            do = Calls(TenantCheckpointSaver(inner), twin)
            async with scope(acme):
                await chain(do, ["one", "two"])
                assert len(await do("list", None)) == 2
            async with scope(Tenant("globex", "free")):
                await chain(do, ["one"])
                with pytest.raises(StoreUnavailable, match="name a thread"):
                    await do("list", None)
                assert len(await do("list", CONFIG)) == 1


def test_a_saver_that_knows_no_filter_for_another_reason_says_so(acme: Tenant) -> None:
    class Broken(InMemorySaver):
        def list(self, *args: Any, **kwargs: Any) -> Any:
            raise ValueError("something else")

    with scope(acme), pytest.raises(ValueError, match="something else"):
        list(TenantCheckpointSaver(Broken()).list(None))


def test_a_saver_that_answers_with_another_thread_is_an_incident(pair: tuple[Tenant, Tenant]) -> None:
    class Careless(InMemorySaver):
        def get_tuple(self, config: Any) -> Any:
            return next(iter(self.list(None)), None)

    saver = TenantCheckpointSaver(Careless())
    with scope(pair[0]):
        saver.put({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, empty_checkpoint(), {}, {})
        assert saver.get_tuple(CONFIG) is not None
    with scope(pair[1]), pytest.raises(IsolationBreach) as caught:
        saver.get_tuple(CONFIG)
    assert pair[0].id not in str(caught.value).split()
