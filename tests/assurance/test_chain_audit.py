"""The audit of a user's chain: each kind of leak is found with its path, a tight chain passes, a silent one doesn't."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tenant_middleware.assurance.chain import ChainReport
from tenant_middleware.assurance.hosted import audit_chain
from tenant_middleware.assurance.sightings import sighting
from tenant_middleware.context import current_tenant, pin, scope
from tenant_middleware.errors import AuthenticationError, ConfigurationError, StoreUnavailable, TenantMismatch
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tests.hazards.scoreboard import POLICY

Shelf = dict[str, list[str]]


class Chain:
    """Answers with every text of a shelf that shares a word with the question; `key` says whose shelf it is."""

    def __init__(self, key: Callable[[Tenant], str]) -> None:
        self.key, self.shelves = key, dict[str, list[str]]()

    def ingest(self, text: str) -> None:
        self.shelves.setdefault(self.key(current_tenant()), []).append(text)

    def delete(self, text: str) -> None:
        self.shelves[self.key(current_tenant())].remove(text)

    def ask(self, question: str) -> list[str]:
        words = set(question.lower().strip("?").split())
        return [t for t in self.shelves.get(self.key(current_tenant()), []) if words & set(t.lower().split())]

    async def aask(self, question: str) -> list[str]:
        await asyncio.sleep(0)
        return self.ask(question)

    def stream(self, question: str) -> Iterator[str]:
        def steps() -> Iterator[str]:
            for letters in range(0, 10_000, 4):
                text = " ".join(self.ask(question))
                if letters >= len(text):
                    return
                yield text[letters : letters + 4]

        return pin(steps())

    def flipping_stream(self, question: str) -> Iterator[str]:
        """Reads whose turn it is at every step, as an unpinned generator does."""
        yield "The answer: "
        yield from self.ask(question)
        yield from [text for _ in range(4) for text in self.ask(question)]

    async def astream(self, question: str) -> AsyncIterator[str]:
        for text in self.ask(question):
            yield text


def tight() -> Chain:
    return Chain(lambda tenant: tenant.id)


def audit(chain: Chain, ask: Any = None, seed: int = 7) -> ChainReport:
    return audit_chain(chain.ingest, ask or chain.ask, seed=seed)


def verdicts(report: ChainReport) -> set[str]:
    return {step.verdict for step in report.steps}


def test_a_tight_chain_passes_however_it_is_asked() -> None:
    for name in ("ask", "aask", "stream", "astream"):
        chain = tight()
        report = audit(chain, getattr(chain, name))
        assert report.passed, f"{name}: {report}"
        assert any("mutation control" in step.name for step in report.steps)


def test_a_tight_chain_passes_with_any_seed() -> None:
    assert all(audit(tight(), seed=seed).passed for seed in range(20))


class Remembers(Chain):
    """Keeps the last answer on itself while it waits: concurrent calls get each other's."""

    async def aask(self, question: str) -> list[str]:
        self.last = self.ask(question)
        await asyncio.sleep(0)
        return self.last


class Pooled(Chain):
    """Has one connection: a cancelled call leaves its reply on it, and the next call reads that one."""

    def __init__(self, key: Callable[[Tenant], str]) -> None:
        super().__init__(key)
        self.replies, self.lock = list[list[str]](), asyncio.Lock()

    async def aask(self, question: str) -> list[str]:
        async with self.lock:
            self.replies.append(self.ask(question))
            for _ in range(8):
                await asyncio.sleep(0)
            return self.replies.pop(0)


DEFECTS: dict[str, tuple[Callable[[], Chain], str, str]] = {
    "no tenant at all": (lambda: Chain(lambda tenant: ""), "ask", "asks"),
    "case is folded": (lambda: Chain(lambda tenant: tenant.id.lower()), "ask", "asks"),
    "ids are cut short": (lambda: Chain(lambda tenant: tenant.id[:21]), "ask", "asks"),
    "the answer is kept on the object": (lambda: Remembers(lambda tenant: tenant.id), "aask", "while the others do"),
    "a cancelled reply stays on the pool": (lambda: Pooled(lambda tenant: tenant.id), "aask", "was cancelled"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_found_where_it_is(defect: str) -> None:
    make, method, where = DEFECTS[defect]
    chain = make()
    report = audit(chain, getattr(chain, method))
    leaks = [step for step in report.steps if step.verdict == "LEAK"]
    assert leaks and all(where in step.name for step in leaks), report


def test_a_stream_whose_tenant_flips_is_found() -> None:
    chain = tight()
    found = [step for step in audit(chain, chain.flipping_stream).steps if step.verdict == "LEAK"]
    assert found and all("is read on by" in step.name for step in found)


def test_a_leak_is_told_with_its_path() -> None:
    def ask(question: str) -> dict[str, Any]:
        return {"sources": [{"text": text} for text in chain.ask(question)]}

    chain = Chain(lambda tenant: "")
    text = str(audit(chain, ask))
    assert "at answer['sources'][0]['text']" in text and "test_chain_audit.py:" in text and "came out to" in text
    assert "more of the kind" in text


def test_a_chain_that_finds_nothing_or_fails_does_not_pass() -> None:
    def broken(question: str) -> str:
        raise KeyError("index")

    for ingest, ask in ((lambda text: None, lambda question: []), (tight().ingest, broken), (broken, tight().ask)):
        report = audit_chain(ingest, ask, seed=1)
        assert not report.passed and verdicts(report) <= {"held", "CONTROL FAILED", "ERROR"}


def test_a_refusal_for_now_is_no_refusal() -> None:
    """A chain that is too busy to answer strangers looks as tight as one that separates them."""
    chain = tight()

    def ask(question: str) -> list[str]:
        own = chain.ask(question)
        if not any(question.split()[-2] in text for text in own):
            raise StoreUnavailable("too busy", store="chain")
        return own

    assert verdicts(audit(chain, ask)) >= {"held", "ERROR"}


def test_a_leak_in_an_error_message_is_a_leak() -> None:
    chain = Chain(lambda tenant: tenant.id)

    def ask(question: str) -> list[str]:
        own = chain.ask(question)
        if not any(question.split()[-2] in text for text in own):
            raise ValueError(f"no match among {chain.shelves}")
        return own

    assert "LEAK" in verdicts(audit(chain, ask))


def test_the_mutation_control_fails_for_a_chain_that_could_not_be_seen_leaking() -> None:
    """It only ever shows the first text it has: whatever leaked behind it would stay unseen."""
    chain = tight()
    report = audit(chain, lambda question: chain.shelves[current_tenant().id][:1])
    failed = [step for step in report.steps if step.verdict == "CONTROL FAILED"]
    assert failed and all(step.name.startswith("mutation control") for step in failed)


def test_objects_with_a_method_are_asked_by_it() -> None:
    class Engine:
        def __init__(self, chain: Chain) -> None:
            self.query = chain.ask

    chain = tight()
    assert audit(chain, Engine(chain)).passed
    with pytest.raises(ConfigurationError):
        audit(chain, object())
    with pytest.raises(ConfigurationError):
        audit(chain, "ftp://nowhere")


def test_a_langgraph_graph_is_asked_in_one_thread_id() -> None:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph

    from tenant_middleware.langchain import TenantCheckpointSaver

    def graph(chain: Chain, saver: Any) -> Any:
        def answer(state: MessagesState) -> dict[str, Any]:
            return {"messages": [("ai", " ".join(chain.ask(str(state["messages"][-1].content))))]}

        return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile(checkpointer=saver)

    chain = tight()
    assert audit(chain, graph(chain, TenantCheckpointSaver(InMemorySaver()))).passed
    chain = tight()
    report = audit(chain, graph(chain, InMemorySaver()))
    assert "LEAK" in verdicts(report) and "['messages']" in str(report)


def test_a_url_is_asked_with_each_tenants_token() -> None:
    tenants = [Tenant(name, "pro") for name in ("Acme", "acme", "globex", "everybody")]
    tokens = {tenant.id: f"token-of-{tenant.id}" for tenant in tenants}
    for key, verdict in ((lambda tenant: tenant.id, "held"), (lambda tenant: tenant.id.lower(), "LEAK")):
        with served(
            Chain(key), {f"Bearer {token}": tenant for tenant in tenants for token in [tokens[tenant.id]]}
        ) as url:
            report = audit_chain(f"{url}/ingest", f"{url}/ask", tenants=tenants, tokens=tokens, seed=3)
            assert verdict in verdicts(report) and report.passed == (verdict == "held"), report
            with pytest.raises(AuthenticationError):
                from tenant_middleware.assurance.callables import send

                send(f"{url}/ask", "x", "wrong")


class served:
    """A chain behind real HTTP."""

    def __init__(self, chain: Chain, known: dict[str, Tenant]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
                tenant = known.get(self.headers["Authorization"])
                if tenant is None:
                    self.send_error(401)
                    return
                call = {"/ask": chain.ask, "/ingest": chain.ingest, "/delete": chain.delete}[self.path]
                try:
                    with scope(tenant):
                        found = call(text)
                except StoreUnavailable:
                    self.send_error(503)
                    return
                body = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=functools.partial(self.server.serve_forever, 0.01))

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_guests_are_let_in_for_the_audit_alone_and_leave_nothing() -> None:
    with Tenancy.from_mapping(POLICY) as tenancy:
        seen: list[Tenant] = []

        def ingest(text: str) -> None:
            seen.append(current_tenant())
            tenancy.exact_cache.store(current_tenant(), "k" + text.split()[4], text)

        def ask(question: str) -> str | None:
            return tenancy.exact_cache.lookup(current_tenant(), "k" + question.rstrip("?").split()[-2])

        report = audit_chain(ingest, ask, seed=5)
        assert report.passed, report
        for guest in seen:
            assert not tenancy.policy.admits(guest)
            with pytest.raises(AuthenticationError):
                tenancy.policy.for_tenant(guest)
        assert not tenancy.exact_cache._tenants  # type: ignore[attr-defined]  # nobody may look from outside
        with pytest.raises(AuthenticationError):
            tenancy.policy.invite(Tenant("acme", "pro"))
        with scope(Tenant("acme", "pro")), pytest.raises(TenantMismatch):
            audit_chain(ingest, ask, seed=5)


def test_sightings_look_into_objects_and_end_in_cycles() -> None:
    class Node:
        __slots__ = ("inner", "text")

        def __init__(self) -> None:
            self.inner, self.text = self, "the code XY-1"

    assert sighting({"a": [Node()]}, "xy-1") == "answer['a'][0].text"
    assert sighting({"XY-1": 0}, "XY-1") == "answer.keys()"
    assert sighting({b"no": {1, 2}}, "XY-1") is None
