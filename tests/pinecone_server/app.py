"""A server on loopback that speaks Pinecone's REST control and data plane, with faults to order.

`with PineconeServer() as server: Pinecone(api_key="any", host=server.url)`; each API key is a project of its own.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.pinecone_server.project import Project, Refused, Switches

REGION = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}


@dataclass
class Fault:
    """What the next matching requests get: a status, or "lost" (applied, no answer) or "hang" (until the end)."""

    kind: int | str
    times: int = 1
    path: str = ""
    retry_after: str | None = None
    skip: int = 0


@dataclass(frozen=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    body: dict[str, Any]
    key: str
    query: dict[str, list[str]] = field(default_factory=dict)
    port: int = 0  # of the connection it came on


class PineconeServer:
    """The service: projects by API key, switches and faults for tests, and every request it has seen."""

    def __init__(self) -> None:
        self.switches = Switches()
        self.faults: list[Fault] = []
        self.requests: list[Seen] = []
        self.refused_keys: set[str] = set()
        self.ended = threading.Event()
        self._projects: dict[str, Project] = {}
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.service = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()

    def project(self, key: str) -> Project:
        with self._lock:
            return self._projects.setdefault(key, Project(self.switches))

    def create_index(self, name: str, dimension: int, *, key: str = "key", metric: str = "cosine") -> None:
        fields = {"_values": {"type": "dense_vector", "dimension": dimension, "metric": metric}}
        self.project(key).create({"name": name, "schema": {"fields": fields}, "deployment": REGION})

    def fail(
        self, kind: int | str, times: int = 1, path: str = "", *, retry_after: str | None = None, skip: int = 0
    ) -> None:
        """Spoil the next `times` requests whose path ends so, after `skip` good ones."""
        self.faults.append(Fault(kind, times, path, retry_after, skip))

    def seen(self, path: str) -> list[Seen]:
        return [request for request in self.requests if request.path.endswith(path)]

    def fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and path.endswith(fault.path):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def host(self, key: str, name: str) -> str:
        return f"{self.url}/data/{key}/{name}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    service: PineconeServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave together
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _handle(self) -> None:
        service = self.server.service
        length = int(self.headers.get("content-length") or 0)
        raw = self.rfile.read(length)
        parts = urlsplit(self.path)
        key = self.headers.get("Api-Key") or ""
        if length > 2 * 1024 * 1024:
            return self._answer(413, {"code": 3, "message": "Request size exceeds 2 MB", "details": []})
        body = json.loads(raw) if raw else {}
        request = Seen(self.command, unquote(parts.path), body, key, parse_qs(parts.query), self.client_address[1])
        service.requests.append(request)
        if not key or key in service.refused_keys:
            return self._answer(401, "Unauthorized")
        fault = service.fault(request.path)
        if fault is not None and fault.kind == "hang":
            service.ended.wait(60)
            self.close_connection = True
            return None
        if fault is not None and isinstance(fault.kind, int):
            extra = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            return self._answer(fault.kind, {"code": 8, "message": "injected", "details": []}, extra)
        status, answer, headers = self._served(service, request, parts.path)
        if fault is not None and fault.kind == "lost":
            self.close_connection = True
            return None
        return self._answer(status, answer, headers)

    def _served(self, service: PineconeServer, request: Seen, raw_path: str) -> tuple[int, Any, dict[str, str]]:
        data = raw_path.startswith("/data/")
        try:
            project = service.project(request.key)
            with project.lock:
                return (
                    self._data(service, project, request, raw_path)
                    if data
                    else self._control(service, project, request)
                )
        except Refused as refusal:
            if data:
                return refusal.status, {"code": refusal.code, "message": refusal.message, "details": []}, {}
            error = {"code": refusal.code, "message": refusal.message}
            return refusal.status, {"error": error, "status": refusal.status}, {}

    def _control(self, service: PineconeServer, project: Project, request: Seen) -> tuple[int, Any, dict[str, str]]:
        name = request.path.removeprefix("/indexes").strip("/")
        if request.method == "POST":
            return 201, self._described(service, request.key, project.create(request.body)), {}
        if request.method == "DELETE":
            project.delete(name)
            return 202, {}, {}
        if name:
            return 200, self._described(service, request.key, project.find(name)), {}
        return (
            200,
            {"indexes": [self._described(service, request.key, found) for found in project.indexes.values()]},
            {},
        )

    def _described(self, service: PineconeServer, key: str, index: Any) -> dict[str, Any]:
        ready = index.starting <= 0
        index.starting -= 1
        return {
            "name": index.name,
            "schema": index.body["schema"],
            "deployment": index.body.get("deployment", REGION),
            "host": service.host(key, index.name),
            "status": {"ready": ready, "state": "Ready" if ready else "Initializing"},
            "deletion_protection": "enabled" if index.name in service.project(key).protected else "disabled",
            "tags": index.body.get("tags"),
        }

    def _data(
        self, service: PineconeServer, project: Project, request: Seen, raw_path: str
    ) -> tuple[int, Any, dict[str, str]]:
        _, _, owner, name, *rest = raw_path.split("/")
        if owner != request.key:
            raise Refused(403, 7, "Forbidden")
        index, action, body = project.find(name), "/".join(rest), request.body
        if action == "vectors/upsert":
            answer, position = index.upsert(body)
            return 200, answer, {"x-pinecone-request-lsn": str(position)}
        if action == "query":
            answer, indexed = index.query(body)
            return 200, answer, {"x-pinecone-max-indexed-lsn": str(indexed)}
        if action == "vectors/delete":
            return 200, {}, {"x-pinecone-request-lsn": str(index.delete(body))}
        space = request.query.get("namespace", [""])[0]
        if action == "vectors/fetch":
            return 200, index.fetch(space, request.query.get("ids", [])), {}
        if action == "vectors/fetch_by_metadata":
            return 200, index.fetch_by_metadata(body), {}
        if action == "vectors/list":
            prefix, limit = request.query.get("prefix", [""])[0], int(request.query.get("limit", ["100"])[0])
            return 200, index.list_ids(space, prefix, limit, request.query.get("paginationToken", [None])[0]), {}
        if action == "describe_index_stats":
            return 200, index.stats(), {}
        if rest[0] == "namespaces" and len(rest) == 2:
            if request.method == "DELETE":
                index.delete_namespace(unquote(rest[1]))
                return 202, {}, {}
            return 200, index.describe_namespace(unquote(rest[1])), {}
        raise Refused(404, 5, "no such path")

    def _answer(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    do_GET = do_POST = do_DELETE = do_PATCH = _handle
