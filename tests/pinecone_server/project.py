"""What lies behind one API key: indexes, namespaces, records, and what readers see of them so far."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import mul
from typing import Any

from tests.pinecone_server.language import Invalid, check, meets

Records = dict[str, dict[str, Any]]
DEFAULT = "__default__"


class Refused(Exception):
    """An answer that isn't 2xx."""

    def __init__(self, status: int, code: Any, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class Switches:
    """How the service misbehaves. `stale_reads` is how many reads still miss a write that was answered."""

    ignores_filters: bool = False
    ignores_namespaces: bool = False
    drops_metadata: bool = False
    absent_differs: bool = False
    stale_reads: int = 0
    slow_to_start: int = 0  # describes that an index answers with before it is ready
    most_indexes: int = 20


@dataclass
class Namespace:
    """Records as readers see them, and writes that are on their way, each with its log position."""

    records: Records = field(default_factory=dict)
    written: int = 0
    indexed: int = 0
    pending: list[tuple[int, int, Callable[[Records], None]]] = field(default_factory=list)
    reads: int = 0

    def write(self, change: Callable[[Records], None], delay: int) -> int:
        self.written += 1
        self.pending.append((self.written, self.reads + delay, change))
        self._catch_up()
        return self.written

    def read(self) -> Records:
        self._catch_up()
        self.reads += 1
        return self.records

    def _catch_up(self) -> None:
        while self.pending and self.pending[0][1] <= self.reads:
            position, _, change = self.pending.pop(0)
            change(self.records)
            self.indexed = position


class Index:
    """The data plane of one index."""

    def __init__(self, name: str, body: dict[str, Any], switches: Switches) -> None:
        self.name, self.body, self.switches = name, body, switches
        vector = body["schema"]["fields"]["_values"]
        self.dimension, self.metric = vector["dimension"], vector["metric"]
        self.namespaces: dict[str, Namespace] = {}
        self.starting = switches.slow_to_start

    def upsert(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        vectors = body.get("vectors") or []
        if not 0 < len(vectors) <= 1000:
            raise Refused(400, 3, "between 1 and 1000 vectors per request")
        made = {vector["id"]: self._record(vector) for vector in vectors}
        space = self.namespaces.setdefault(self._name(body.get("namespace")), Namespace())
        position = space.write(lambda records: records.update(made), self.switches.stale_reads)
        return {"upsertedCount": len(vectors)}, position

    def _record(self, vector: dict[str, Any]) -> dict[str, Any]:
        values = vector.get("values") or []
        if len(values) != self.dimension:
            raise Refused(
                400, 3, f"Vector dimension {len(values)} does not match the dimension of the index {self.dimension}"
            )
        if not any(values):
            raise Refused(400, 3, "Dense vectors must contain at least one non-zero value")
        if not (vector["id"].isascii() and 0 < len(vector["id"]) <= 512):
            raise Refused(400, 3, "Vector ID must be ASCII, at most 512 characters")
        metadata = {key: value for key, value in (vector.get("metadata") or {}).items() if value is not None}
        for key, value in metadata.items():
            strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
            if key.startswith("$") or not (strings or isinstance(value, str | int | float | bool)):
                raise Refused(
                    400,
                    3,
                    f"Metadata value must be a string, number, boolean or list of strings, got {value} for {key}",
                )
        if len(json.dumps(metadata, ensure_ascii=False).encode()) > 40 * 1024:
            raise Refused(400, 3, "Metadata size exceeds the limit of 40960 bytes per vector")
        floats = {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in metadata.items()}
        return {"id": vector["id"], "values": values, "metadata": floats}

    def query(self, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
        vector, top = body.get("vector") or [], body.get("topK", 0)
        if len(vector) != self.dimension:
            raise Refused(400, 3, f"Query vector dimension {len(vector)} does not match {self.dimension}")
        if not 1 <= top <= 10_000:
            raise Refused(400, 3, "topK must be between 1 and 10000")
        found, indexed = self._matching(body.get("namespace"), body.get("filter"))
        scored = [(self._score(vector, record["values"]), record) for record in found]
        scored.sort(key=lambda pair: pair[0], reverse=self.metric != "euclidean")
        matches = []
        for score, record in scored[:top]:
            match = {
                "id": record["id"],
                "score": score,
                "values": record["values"] if body.get("includeValues") else [],
            }
            if body.get("includeMetadata"):
                match["metadata"] = self._shown(record)["metadata"]
            matches.append(match)
        return {"matches": matches, "namespace": body.get("namespace", ""), "usage": {"readUnits": 1}}, indexed

    def fetch(self, namespace: str, ids: list[str]) -> dict[str, Any]:
        records = {key: record for name, record in self._all(namespace) if (key := name) in ids}
        return {
            "vectors": {key: self._shown(records[key]) for key in records},
            "namespace": namespace,
            "usage": {"readUnits": 1},
        }

    def fetch_by_metadata(self, body: dict[str, Any]) -> dict[str, Any]:
        if not body.get("filter"):
            raise Refused(400, 3, "filter must not be empty")
        found, _ = self._matching(body.get("namespace"), body["filter"])
        page, following = _page(
            sorted(found, key=lambda record: record["id"]), body.get("limit", 100), body.get("paginationToken")
        )
        answer = {
            "vectors": {record["id"]: self._shown(record) for record in page},
            "namespace": body.get("namespace", ""),
        }
        return {**answer, "usage": {"readUnits": 1}, **({"pagination": {"next": following}} if following else {})}

    def list_ids(self, namespace: str, prefix: str, limit: int, token: str | None) -> dict[str, Any]:
        found = [{"id": key} for key, _ in sorted(self._all(namespace)) if key.startswith(prefix)]
        page, following = _page(found, min(limit, 100), token)
        answer: dict[str, Any] = {"vectors": page, "namespace": namespace, "usage": {"readUnits": 1}}
        return {**answer, **({"pagination": {"next": following}} if following else {})}

    def delete(self, body: dict[str, Any]) -> int:
        space = self.namespaces.get(self._name(body.get("namespace")))
        if space is None:
            raise Refused(404, 5, "Namespace not found")
        where, ids = body.get("filter"), body.get("ids") or []
        if where is not None:
            if not where:
                raise Refused(400, 3, "filter must not be empty")
            self._check(where)
            return space.write(lambda records: self._drop(records, where), self.switches.stale_reads)
        if body.get("deleteAll"):
            return space.write(lambda records: records.clear(), self.switches.stale_reads)
        return space.write(lambda records: [records.pop(key, None) for key in ids] and None, self.switches.stale_reads)

    def _drop(self, records: Records, where: dict[str, Any]) -> None:
        for key in [key for key, record in records.items() if self._meets(where, record)]:
            del records[key]

    def describe_namespace(self, name: str) -> dict[str, Any]:
        space = self.namespaces.get(self._name(name))
        if space is None:
            raise Refused(404, 5, "Namespace not found")
        return {"name": name, "record_count": len(space.read())}

    def delete_namespace(self, name: str) -> None:
        if self.namespaces.pop(self._name(name), None) is None:
            raise Refused(404, 5, "Namespace not found")

    def stats(self) -> dict[str, Any]:
        counts = {name: {"vectorCount": len(space.records)} for name, space in self.namespaces.items()}
        total = sum(count["vectorCount"] for count in counts.values())
        return {"namespaces": counts, "dimension": self.dimension, "indexFullness": 0, "totalVectorCount": total}

    def _name(self, namespace: str | None) -> str:
        return namespace or DEFAULT

    def _all(self, namespace: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
        spaces = list(self.namespaces.values())
        if not self.switches.ignores_namespaces:
            spaces = [space for name, space in self.namespaces.items() if name == self._name(namespace)]
        for space in spaces:
            yield from list(space.read().items())

    def _matching(self, namespace: str | None, where: Any) -> tuple[list[dict[str, Any]], int]:
        if where:
            self._check(where)
        found = [record for _, record in self._all(namespace) if not where or self._meets(where, record)]
        space = self.namespaces.get(self._name(namespace))
        return found, space.indexed if space else 0

    def _check(self, where: Any) -> None:
        try:
            check(where)
        except Invalid as error:
            raise Refused(400, 3, str(error)) from error

    def _meets(self, where: dict[str, Any], record: dict[str, Any]) -> bool:
        if self.switches.ignores_filters:
            return True
        return meets(where, record["metadata"], absent_differs=self.switches.absent_differs)

    def _shown(self, record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "metadata": {}} if self.switches.drops_metadata else record

    def _score(self, a: list[float], b: list[float]) -> float:
        if self.metric == "euclidean":
            return math.dist(a, b) ** 2
        dot = sum(map(mul, a, b))
        return dot if self.metric == "dotproduct" else dot / (math.hypot(*a) * math.hypot(*b))


class Project:
    """The control plane behind one key."""

    def __init__(self, switches: Switches) -> None:
        self.switches = switches
        self.lock = threading.Lock()
        self.indexes: dict[str, Index] = {}
        self.protected: set[str] = set()

    def create(self, body: dict[str, Any]) -> Index:
        if body["name"] in self.indexes:
            raise Refused(409, "ALREADY_EXISTS", "Resource already exists")
        if len(self.indexes) >= self.switches.most_indexes:
            raise Refused(403, "QUOTA_EXCEEDED", "You've reached the max serverless indexes allowed in this project")
        if not 0 < len(body["name"]) <= 45 or not all(c.islower() or c.isdigit() or c == "-" for c in body["name"]):
            raise Refused(400, "INVALID_ARGUMENT", "Name must consist of lower case alphanumeric characters or '-'")
        self.indexes[body["name"]] = Index(body["name"], body, self.switches)
        return self.indexes[body["name"]]

    def find(self, name: str) -> Index:
        if name not in self.indexes:
            raise Refused(404, "NOT_FOUND", f"Resource {name} not found")
        return self.indexes[name]

    def delete(self, name: str) -> None:
        self.find(name)
        if name in self.protected:
            raise Refused(403, "FORBIDDEN", "Deletion protection is enabled for this index")
        del self.indexes[name]


def _page(items: list[Any], limit: int, token: str | None) -> tuple[list[Any], str | None]:
    start = int(token or 0)
    following = start + limit
    return items[start:following], str(following) if following < len(items) else None
