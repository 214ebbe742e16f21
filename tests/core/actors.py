"""Who runs code in a program: tasks and threads that a schedule drives one command at a time."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Command = Callable[[], Any]


class Actor(Protocol):
    """A line of execution with a context of its own; a command's result or error comes back to the schedule."""

    def do(self, command: Command) -> Any: ...
    def stop(self) -> None: ...


class TaskActor:
    """A task on the schedule's loop. A command that returns an awaitable is awaited inside the task."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._commands: asyncio.Queue[tuple[Command, asyncio.Future[Any]] | None] = asyncio.Queue()
        self.task = loop.create_task(self._live())

    async def _live(self) -> None:
        while (item := await self._commands.get()) is not None:
            command, done = item
            try:
                result = command()
                if isinstance(result, Awaitable):
                    result = await result
            except BaseException as error:  # it belongs to whoever gave the command
                if not done.done():
                    done.set_exception(error)
                if isinstance(error, asyncio.CancelledError):
                    raise
            else:
                done.set_result(result)

    def do(self, command: Command) -> Any:
        done = self.loop.create_future()
        self._commands.put_nowait((command, done))
        return self.loop.run_until_complete(done)

    def stop(self) -> None:
        if not self.task.done():
            self._commands.put_nowait(None)
            self.loop.run_until_complete(self.task)


class ThreadActor:
    """A raw thread: it starts without any context."""

    def __init__(self) -> None:
        self._commands: queue.Queue[Command | None] = queue.Queue()
        self._results: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        while (command := self._commands.get()) is not None:
            try:
                self._results.put((command(), None))
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever gave the command
                self._results.put((None, error))

    def do(self, command: Command) -> Any:
        self._commands.put(command)
        result, error = self._results.get(timeout=30)
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        self._commands.put(None)
        self._thread.join(30)
