"""A tool of ours may ask for the graph's runtime and store: what no model can write, and only one tenant's items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.prebuilt import InjectedState, InjectedStore
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from tenant_middleware import ConfigurationError, InvalidInput, Tenancy, Tenant, scope
from tenant_middleware.langchain import TenantAgentMiddleware, TenantChatModel, TenantStore, tenant_tool

NOTES = ("notes",)


@tenant_tool(tenantless=True)
def remember(text: str, runtime: ToolRuntime) -> str:
    """Remember a text."""
    assert runtime.store is not None
    runtime.store.put(NOTES, "last", {"text": text})
    return "noted"


@tenant_tool(tenantless=True)
def recall(topic: str, runtime: ToolRuntime) -> str:
    """What was remembered."""
    assert runtime.store is not None
    found = runtime.store.get(NOTES, "last")
    return found.value["text"] if found else f"nothing of {topic} in {len(runtime.state['messages'])} messages"


@tenant_tool(tenantless=True)
async def arecall(topic: str, store: Annotated[Any, InjectedStore()]) -> str:
    """What was remembered."""
    found = await store.aget(NOTES, "last")
    return found.value["text"] if found else f"nothing of {topic}"


@tenant_tool(tenantless=True)
def count(topic: str, state: Annotated[dict[str, Any], InjectedState]) -> str:
    """How many messages there are."""
    return str(len(state["messages"]))


class Scripted(GenericFakeChatModel):
    """Gives the messages it was made with."""

    model_name: str = "openai/local"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self.bind(tools=[])


Ask = Callable[..., str]


@pytest.fixture
def ask(tenancy: Tenancy) -> Ask:
    """Has an agent call one tool, with these arguments of the model's, and gives what the tool said."""

    def call(tenant: Tenant, tool: Any, store: BaseStore | None, **args: Any) -> str:
        said = [AIMessage("", tool_calls=[{"name": tool.name, "args": args, "id": "1"}]), AIMessage("done")]
        model = TenantChatModel(model=Scripted(messages=iter(said)), model_name="openai/local", gate=tenancy.gate)
        agent: Any = create_agent(model, [tool], middleware=[TenantAgentMiddleware(tenancy)], store=store)
        with scope(tenant):
            return str(agent.invoke({"messages": [("user", "go on")]})["messages"][-2].content)

    return call


def test_a_tool_finds_what_its_tenant_had_it_remember(ask: Ask, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    store = TenantStore(InMemoryStore())
    assert ask(a, remember, store, text=f"of {a.id}") == "noted"
    assert ask(a, recall, store, topic="x") == f"of {a.id}"
    assert ask(b, recall, store, topic="x") == "nothing of x in 2 messages"
    assert set(recall.tool_call_schema.model_json_schema()["properties"]) == {"topic"}, "the model sees no runtime"


async def test_the_async_form_is_handed_its_store(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    store = TenantStore(InMemoryStore())
    for tenant in pair:
        with scope(tenant):
            store.put(NOTES, "last", {"text": f"of {tenant.id}"})
    for tenant in pair:
        with scope(tenant):
            assert await arecall.ainvoke({"topic": "x", "store": store}) == f"of {tenant.id}"


def test_a_bare_store_is_refused(ask: Ask, pair: tuple[Tenant, Tenant]) -> None:
    """The control: the bare store gives the second tenant the first one's item."""
    bare = InMemoryStore()
    for tool, args in ((remember, {"text": "x"}), (recall, {"topic": "x"})):
        with pytest.raises(ConfigurationError, match="TenantStore"):
            ask(pair[0], tool, bare, **args)
    bare.put(NOTES, "last", {"text": "anybody's"})
    item = bare.get(NOTES, "last")
    with scope(pair[1]):
        assert item is not None and bare.get(NOTES, "last") == item


@pytest.mark.parametrize("spoofed", [{"store": "x"}, "x", None, {"state": {"messages": []}}], ids=str)
def test_a_model_writes_no_runtime(ask: Ask, pair: tuple[Tenant, Tenant], spoofed: Any) -> None:
    store = TenantStore(InMemoryStore())
    ask(pair[0], remember, store, text="secret")
    assert ask(pair[1], recall, store, topic="x", runtime=spoofed) == "nothing of x in 2 messages", "the graph's wins"
    with scope(pair[0]), pytest.raises(InvalidInput):
        recall.invoke({"topic": "x", "runtime": spoofed})


def test_a_bare_state_could_be_the_models_and_is_refused(ask: Ask, acme: Tenant) -> None:
    with pytest.raises(InvalidInput):
        ask(acme, count, None, topic="x")
