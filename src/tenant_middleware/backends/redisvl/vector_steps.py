"""What each driver operation asks of Redis, as flows of commands that run plainly or by awaiting."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import RedisError, ResponseError

from tenant_middleware.backends.redisvl import records
from tenant_middleware.backends.redisvl.records import DOC, KEY, NEAR, TENANT, TERMS, VECTOR
from tenant_middleware.errors import InvalidInput, PartialWrite, StoreUnavailable
from tenant_middleware.isolation.drivers import Cursor
from tenant_middleware.isolation.filters import Where
from tenant_middleware.isolation.place import Place, Row, place_of, under_tenant
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant

R = TypeVar("R")
STORE = "vector store"
BATCH = 250
PAGE = 1000
# How a distance becomes a score that is higher for nearer records: offset + sign * distance.
METRICS = {"cosine": ("COSINE", 1.0, -1.0), "dotproduct": ("IP", 1.0, -1.0), "euclidean": ("L2", 0.0, -1.0)}
_RETURN = ("RETURN", 3, DOC, TENANT, NEAR)
# A tenant of up to so many records in a shared index is searched one by one: exact, and quick where the graph is
# almost all other tenants'. It is counted again after so many searches.
EXACT, RECOUNT = 5_000, 256
_ONE_BY_ONE = " HYBRID_POLICY ADHOC_BF"
_MOST_COUNTED = 100_000


class Command(NamedTuple):
    """One command for the node that has the tenant's slot."""

    place: Place
    words: tuple[Any, ...]


class Batch(NamedTuple):
    """Commands sent together; a reply may be an error."""

    commands: list[Command]


Flow = Generator[Command | Batch, Any, R]


@dataclass(frozen=True, slots=True)
class Setup:
    """What an application configures."""

    name: str
    metric: str
    numeric: tuple[str, ...]
    m: int
    ef_construction: int
    ef_runtime: int
    timeout_ms: int


class Steps:
    """The flows, and the dimension of each index that is known to exist."""

    def __init__(self, setup: Setup, dimension: int | None, *, shared: bool) -> None:
        self._setup, self._shared = setup, shared
        self._given = dimension
        self._known: dict[str, int] = {}
        self._counted: dict[str, tuple[int, str]] = {}
        self._metric, self._offset, self._sign = METRICS[setup.metric]

    @property
    def dimension(self) -> int | None:
        return self._given

    def index(self, place: Place) -> str:
        """A name per place; the tenant's own holds its hash tag, so that it lies with its keys."""
        return self.prefix(place)[:-1]

    def prefix(self, place: Place) -> str:
        """What every key of a place, and no key of another, begins with."""
        shared = f"{self._setup.name}:{_LETTERS[place.isolation]}:"
        return shared if place.shared else f"{shared}{{{place.stamp}}}:"

    def _key(self, place: Place, key: str) -> str:
        return f"{self.prefix(place)}{key}"

    def _size(self, place: Place) -> Flow[int | None]:
        """The dimension of a place's index, None when there is none."""
        name = self.index(place)
        if name not in self._known:
            try:
                reply = yield Command(place, ("FT.INFO", name))
            except ResponseError as error:
                if _no_index(error):
                    return None
                raise
            yield from self._adopt(place, reply)
        return self._known[name]

    def _adopt(self, place: Place, reply: Sequence[Any]) -> Flow[None]:
        """Take over an index that exists; ranges declared since are added."""
        attributes = _pairs(reply)[b"attributes"]
        names = {_pairs(attribute)[b"attribute"].decode() for attribute in attributes}
        for name in self._setup.numeric:
            if records.number_field(name) not in names:
                yield Command(
                    place, ("FT.ALTER", self.index(place), "SCHEMA", "ADD", records.number_field(name), "NUMERIC")
                )
        (size,) = (int(_pairs(attribute)[b"dim"]) for attribute in attributes if b"dim" in attribute)
        self._known[self.index(place)] = size

    def _make(self, place: Place, size: int) -> Flow[None]:
        """Create a place's index unless it exists."""
        if (known := (yield from self._size(place))) is not None:
            if known != size:
                raise InvalidInput(f"vector: expected {known} dimensions, got {size}")
            return
        setup = self._setup
        graph = ("TYPE", "FLOAT32", "DIM", size, "DISTANCE_METRIC", self._metric, "M", setup.m)
        effort = ("EF_CONSTRUCTION", setup.ef_construction, "EF_RUNTIME", setup.ef_runtime)
        vector = (VECTOR, "VECTOR", "HNSW", len(graph) + len(effort), *graph, *effort)
        numbers = [word for name in setup.numeric for word in (records.number_field(name), "NUMERIC")]
        tags = (TENANT, "TAG", TERMS, "TAG", "SEPARATOR", ",", KEY, "TAG", "SORTABLE", "UNF")
        head = ("FT.CREATE", self.index(place), "ON", "HASH", "PREFIX", 1, self.prefix(place), "SCHEMA")
        try:
            yield Command(place, (*head, *tags, *vector, *numbers))
        except ResponseError as error:
            if "already exists" not in str(error).lower():
                raise
            yield from self._make(place, size)  # another worker was first: its dimension decides
            return
        self._known[self.index(place)] = size

    def learn(self) -> Flow[int | None]:
        """The dimension of the shared index, if there is one."""
        if self._given is not None or not self._shared:
            return self._given
        return (yield from self._size(place_of(Tenant("probe", "probe"), "filter")))

    # Writing.

    def upsert(self, place: Place, rows: Sequence[Row]) -> Flow[None]:
        sizes = {len(row.vector) for row in rows}
        if len(sizes) > 1:
            raise InvalidInput("vector: expected one dimension, got several in one call")
        yield from self._make(place, sizes.pop())
        failed: list[str] = []
        down = False
        for start in range(0, len(rows), BATCH):
            group = rows[start : start + BATCH]
            replies: list[Any] = []
            if not down:
                try:
                    replies = yield self._write(place, group)
                except (RedisError, OSError):
                    down = True
            each = len(replies) // len(group)
            for number, row in enumerate(group):
                answers = replies[number * each : (number + 1) * each]
                if not answers or any(isinstance(answer, Exception) for answer in answers):
                    failed.append(str(row.id))
        if failed:
            raise _partial(failed, len(rows))

    def _write(self, place: Place, rows: Sequence[Row]) -> Batch:
        commands = []
        numbers = {records.number_field(name) for name in self._setup.numeric}
        for row in rows:
            key, fields = self._key(place, row.key), records.fields(row, self._setup.numeric)
            commands.append(Command(place, ("HSET", key, *(word for pair in fields.items() for word in pair))))
            if numbers:  # a number the record no longer has must not be found
                commands.append(Command(place, ("HDEL", key, "-", *sorted(numbers - fields.keys()))))
        return Batch(commands)

    def delete(self, place: Place, keys: Sequence[str]) -> Flow[None]:
        for start in range(0, len(keys), PAGE):
            yield Command(place, ("UNLINK", *(self._key(place, key) for key in keys[start : start + PAGE])))

    def delete_where(self, place: Place, where: Where) -> Flow[None]:
        while True:
            found, _ = yield from self._keys(place, where, 0)
            if not found:
                return
            yield from self.delete(place, found)

    # Reading.

    def query(self, place: Place, vector: list[float], k: int, where: Where | None) -> Flow[list[Row]]:
        size = yield from self._size(place)
        if size is None:
            return []
        if len(vector) != size:
            raise InvalidInput(f"vector: expected {size} dimensions, got {len(vector)}")
        wanted = records.query(where, self._setup.numeric)
        params = ["v", array("f", vector).tobytes(), *wanted.params]
        policy = yield from self._policy(place)
        reply = yield from self._search(
            place,
            f"{wanted.text}=>[KNN {k} @{VECTOR} $v{policy} AS {NEAR}]",
            (*_RETURN, "SORTBY", NEAR, "LIMIT", 0, k, "PARAMS", len(params), *params),
        )
        return self._rows(place, reply[1::2], reply[2::2])

    def _policy(self, place: Place) -> Flow[str]:
        """How the search module goes about it, by the tenant's size when it was last counted; empty: as it likes."""
        if not place.shared:
            return ""
        left, policy = self._counted.get(place.stamp, (0, ""))
        if left == 0:
            if len(self._counted) >= _MOST_COUNTED:
                self._counted.clear()
            left, policy = RECOUNT, _ONE_BY_ONE if (yield from self.count(place)) <= EXACT else ""
        self._counted[place.stamp] = (left - 1, policy)
        return policy

    def fetch(self, place: Place, keys: Sequence[str]) -> Flow[list[Row]]:
        found: list[Row] = []
        for start in range(0, len(keys), BATCH):
            names = [self._key(place, key) for key in keys[start : start + BATCH]]
            replies = yield Batch([Command(place, ("HMGET", name, DOC, TENANT, VECTOR)) for name in names])
            for name, reply in zip(names, replies, strict=True):
                if isinstance(reply, Exception):
                    raise reply
                if any(value is not None for value in reply):
                    values = [word for pair in zip((b"doc", b"tenant", b"vector"), reply, strict=True) for word in pair]
                    found += self._rows(place, [name.encode()], [values])
        return found

    def scan(self, place: Place, where: Where | None, limit: int, cursor: Cursor) -> Flow[tuple[list[Row], Cursor]]:
        start = int(cursor or 0)
        keys, total = yield from self._keys(place, where, start, limit)
        rows = yield from self.fetch(place, keys)
        following = start + len(keys)
        return rows, str(following) if keys and following < total else None

    def keys(self, place: Place, cursor: Cursor) -> Flow[tuple[list[str], Cursor]]:
        start = int(cursor or 0)
        found, total = yield from self._keys(place, under_tenant(place, None), start)
        following = start + len(found)
        return found, str(following) if found and following < total else None

    def _keys(self, place: Place, where: Where | None, start: int, limit: int = PAGE) -> Flow[tuple[list[str], int]]:
        if (yield from self._size(place)) is None:
            return [], 0
        wanted = records.query(where, self._setup.numeric)
        params = ("PARAMS", len(wanted.params), *wanted.params) if wanted.params else ()
        reply = yield from self._search(
            place, wanted.text, ("NOCONTENT", "SORTBY", KEY, "LIMIT", start, limit, *params)
        )
        prefix = self.prefix(place)
        return [name.decode().removeprefix(prefix) for name in reply[1:]], int(reply[0])

    def count(self, place: Place) -> Flow[int]:
        _, total = yield from self._keys(place, under_tenant(place, None), 0, 0)
        return total

    def holds(self, place: Place) -> Flow[bool]:
        return (yield from self.count(place)) > 0

    def _search(self, place: Place, text: str, options: tuple[Any, ...]) -> Flow[Sequence[Any]]:
        """One search. The server's own time limit answers with a part of the results, so it is set past ours."""
        name = self.index(place)
        limit = ("TIMEOUT", self._setup.timeout_ms, "DIALECT", 2)
        try:
            found: Sequence[Any] = yield Command(place, ("FT.SEARCH", name, text, *options, *limit))
            return found
        except ResponseError as error:
            if not _no_index(error):
                raise
            self._known.pop(name, None)  # dropped behind our back; made anew by the next write
            return [0]

    def _rows(self, place: Place, names: Sequence[bytes], found: Sequence[Sequence[bytes]]) -> list[Row]:
        prefix, sign, offset = self.prefix(place), self._sign, self._offset
        pairs = zip(names, found, strict=True)
        return [records.row(prefix, name, _pairs(values), sign, offset) for name, values in pairs]

    # Making and removing.

    def provision(self, place: Place) -> Flow[None]:
        if self._given is not None:
            yield from self._make(place, self._given)

    def drop(self, place: Place) -> Flow[None]:
        self._known.pop(self.index(place), None)
        try:
            yield Command(place, ("FT.DROPINDEX", self.index(place), "DD"))
        except ResponseError as error:
            if not _no_index(error):
                raise

    def emptied(self, place: Place) -> Flow[None]:
        """Nothing to wait for: the index changes with the keys."""
        yield from ()


_LETTERS: Mapping[Isolation, str] = {"filter": "all", "namespace": "own", "silo": "silo"}


def _no_index(error: Exception) -> bool:
    text = str(error).lower()
    return "no such index" in text or "unknown index name" in text or "index not found" in text


def _pairs(words: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(words[::2], words[1::2], strict=False))


def _partial(failed: Sequence[str], total: int) -> StoreUnavailable:
    stored = total - len(failed)
    if stored == 0:
        return StoreUnavailable(
            "the vector store in Redis can't be reached or refused; nothing was stored", store=STORE
        )
    return PartialWrite(
        f"{stored} of {total} records are stored and {len(failed)} are not; write those again",
        store=STORE,
        failed_ids=tuple(failed),
        stored=stored,
    )
