"""What to send where, written once as generators and driven twice: by plain sockets and by an event loop.

A flow yields what it needs done and gets the result: `Send` commands to a node, `Pause`, or `Elsewhere` for blocking
work of another backend. It decides redirects, retries and reloading of the script.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from tenant_middleware.errors import SettingsError, StoreUnavailable

_log = logging.getLogger(__name__)
R = TypeVar("R")
Command = Sequence[Any]
Address = tuple[str, int]

# A slot on the move answers within some of these; the caller's deadline ends it if not.
PATIENCE = 16
PAUSE = 0.025


class Send(NamedTuple):
    """Commands for one node, in order; the result is a list of replies, errors of the server among them."""

    node: Address
    commands: Sequence[Command]


class Pause(NamedTuple):
    """Wait."""

    seconds: float


class Elsewhere(NamedTuple):
    """Blocking work that isn't Redis; it has to leave the event loop."""

    work: Callable[[], Any]


Step = Send | Pause | Elsewhere
Flow = Generator[Step, Any, R]


class Nodes:
    """Where each slot lives, and which run of which server we know. Without a cluster there is one node."""

    def __init__(self, first: Address) -> None:
        self.first = first
        self.slots: dict[int, Address] = {}
        self.runs: dict[Address, str] = {}
        self.clustered = False

    def of(self, key: str) -> Address:
        if not self.clustered:
            return self.first
        return self.slots.get(key_slot(key.encode()), self.first)

    def moved(self, key: str, node: Address) -> None:
        self.clustered = True
        self.slots[key_slot(key.encode())] = node

    def known(self) -> list[Address]:
        return sorted({self.first, *self.slots.values()})


class RunScript:
    """A script's text for one run of a server. Its hash names that run, so it is unknown to the next one."""

    def __init__(self, *names: str) -> None:
        self._source = "\n".join(files(__package__).joinpath(name).read_text(encoding="utf-8") for name in names)
        self._by_run: dict[str, tuple[str, str]] = {}

    def of(self, run: str) -> tuple[str, str]:
        """Hash and text."""
        found = self._by_run.get(run)
        if found is None:
            text = self._source.replace("@RUN@", run)
            found = (hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), text)
            self._by_run[run] = found
        return found


def call(nodes: Nodes, script: RunScript, keys: Sequence[str], args: Sequence[str]) -> Flow[Any]:
    """One script call, wherever its slot is now; by hash, and by text where the server doesn't know the hash."""
    node, by_text, asking = nodes.of(keys[0]), False, False
    for _ in range(PATIENCE):
        run = nodes.runs.get(node)
        if run is None or by_text:
            run = yield from _run_of(nodes, node)
        sha, text = script.of(run)
        command = ("EVAL", text) if by_text else ("EVALSHA", sha)
        commands: list[Command] = [(*command, len(keys), *keys, *args)]
        if asking:
            commands.insert(0, ("ASKING",))
        reply = (yield Send(node, commands))[-1]
        if not isinstance(reply, Exception):
            return reply
        if isinstance(reply, NoScriptError):
            by_text = True
            continue
        node, asking = yield from _redirected(nodes, keys[0], node, reply)
        by_text = False
    raise StoreUnavailable("the cluster kept moving this tenant's slot", store="admission", retry_after=1.0)


def call_again(nodes: Nodes, script: RunScript, keys: Sequence[str], args: Sequence[str]) -> Flow[Any]:
    """`call` of an idempotent operation: a reply that was lost on the way, and not late, is asked for again, once."""
    try:
        return (yield from call(nodes, script, keys, args))
    except Unreachable as error:
        if error.slow:
            raise
    return (yield from call(nodes, script, keys, args))


def commands(nodes: Nodes, key: str, sent: Sequence[Command], *, allow: str = "\n") -> Flow[list[Any]]:
    """Plain commands on one tenant's keys, wherever its slot is now.

    The first error is raised, but those whose text begins with `allow` come back as replies.
    """
    node, asking = nodes.of(key), False
    for _ in range(PATIENCE):
        replies = yield Send(node, [word for one in sent for word in ((("ASKING",), one) if asking else (one,))])
        if asking:
            replies = replies[1::2]
        errors = (reply for reply in replies if isinstance(reply, Exception))
        wrong = next((error for error in errors if not str(error).startswith(allow)), None)
        if wrong is None:
            return list(replies)
        node, asking = yield from _redirected(nodes, key, node, wrong)
    raise StoreUnavailable("the cluster kept moving this tenant's slot", store="admission", retry_after=1.0)


def contact(nodes: Nodes) -> Flow[None]:
    """The first contact: will the server keep what it is told? One that is down is tried again by the first call."""
    try:
        yield from _run_of(nodes, nodes.first)
    except StoreUnavailable as error:
        _log.warning("starting without Redis: %s", error)


def _run_of(nodes: Nodes, node: Address) -> Flow[str]:
    """The id of the server's run: another one after each restart. Refuses a server that throws keys away."""
    reply = (yield Send(node, [("INFO",)]))[0]
    if isinstance(reply, Exception):
        raise unavailable(reply)
    told: dict[str, str] = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
    policy, run = told.get("maxmemory_policy", "noeviction"), told.get("run_id")
    if policy != "noeviction":
        raise SettingsError(
            f"backends.admission: this Redis has the maxmemory-policy {policy}, which may throw budgets away; "
            "set noeviction, or use another Redis for caches"
        )
    if run is None:
        raise StoreUnavailable("this server tells no run_id: is it a Redis?", store="admission")
    nodes.runs[node] = run
    return str(run)


def _redirected(nodes: Nodes, key: str, node: Address, reply: Exception) -> Flow[tuple[Address, bool]]:
    """Where to go after an error of the server, and whether with ASKING; raises what no other node can help with."""
    if isinstance(reply, MovedError):  # before its base class AskError
        nodes.moved(key, (reply.host or node[0], int(reply.port)))
        return nodes.of(key), False
    if isinstance(reply, AskError):
        return (reply.host or node[0], int(reply.port)), True
    if isinstance(reply, TryAgainError | ClusterDownError):
        yield Pause(PAUSE)
        return nodes.of(key), False
    raise unavailable(reply)


class Unreachable(StoreUnavailable):
    """Redis is down, or `slow`: it didn't answer in time."""

    def __init__(self, message: str, *, slow: bool) -> None:
        super().__init__(message, store="admission", retry_after=1.0)
        self.slow = slow


def unavailable(error: BaseException) -> StoreUnavailable:
    """Ours for an error of the client or the server; its text may hold arguments, so only its kind is told."""
    kind = type(error).__name__
    refused = isinstance(error, ResponseError) and not isinstance(error, BusyLoadingError | ReadOnlyError)
    if refused:
        if isinstance(error, OutOfMemoryError) or str(error).startswith("OOM"):
            kind = "out of memory: raise maxmemory"
        return StoreUnavailable(f"Redis refused limits and budgets ({kind})", store="admission", retry_after=1.0)
    slow = isinstance(error, TimeoutError | RedisTimeoutError)
    return Unreachable(f"limits and budgets in Redis can't be reached ({kind})", slow=slow)
