"""A model provider on loopback that does as the prompt says, and keeps its own books.

Directives stand in the prompt: `[prompt=50]` and `[output=50]` are what it charges, `[delay=0.2]` seconds before it
answers, `[fail=500]` an error status, `[hangup=3]` chunks before the connection drops at a word of `Upstream.hang_up`
(a client that is slow loses what it hasn't read when it drops), `[ignore_cap]`, `[no_usage]`,
`[who=acme]` under which name it books. `[say=...]` is the answer, in a stream five letters at a time. Run as a program
it prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

_DIRECTIVE = re.compile(r"\[(\w+)(?:=([^\]]*))?\]")


@dataclass
class Books:
    """What was served, by the name in the prompt."""

    calls: Counter[str] = field(default_factory=Counter)
    prompt: Counter[str] = field(default_factory=Counter)
    output: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    at: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    seen: list[dict[str, Any]] = field(default_factory=list)
    n: int = 0


BOOKS = Books()
HANG_UP = asyncio.Event()


def orders(body: dict[str, Any]) -> dict[str, str]:
    """The directives of a request, wherever its text is."""
    text = json.dumps([body.get(name) for name in ("messages", "input", "prompt", "query")], ensure_ascii=False)
    return {name: value or "1" for name, value in _DIRECTIVE.findall(text)}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    raw = b""
    while True:
        message = await receive()
        raw += message.get("body", b"")
        if not message.get("more_body"):
            break
    path = scope["path"].removeprefix("/v1")
    if path == "/books":
        await _json(send, 200, vars(BOOKS) | {"seen": BOOKS.seen[-200:]})
        return
    if path == "/reset":
        BOOKS.__init__()  # type: ignore[misc]  # the books of the next test
        await _json(send, 200, {})
        return
    if path == "/hang_up":
        HANG_UP.set()
        await _json(send, 200, {})
        return
    if scope["method"] == "GET":  # LiteLLM looks for models when it starts
        await _json(send, 200, {"object": "list", "data": []})
        return
    body = json.loads(raw or b"{}")
    asked = orders(body)
    who = asked.get("who", "nobody")
    BOOKS.attempts[who] += 1
    BOOKS.at[who].append(time.time())
    BOOKS.seen.append({"path": path, "headers": _headers(scope), **body})
    if "delay" in asked:
        await asyncio.sleep(float(asked["delay"]))
    model_fails = str(body.get("model", "")).startswith("broken")
    if "fail" in asked or model_fails:
        status = int(asked.get("fail", "500"))
        error = {"error": {"message": "told to fail", "type": "server_error", "code": None}}
        await _json(send, status, error)
        return
    await _SERVED[path](send, body, asked, who)


def _headers(scope: dict[str, Any]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}


def _charge(body: dict[str, Any], asked: dict[str, str]) -> tuple[int, int]:
    wanted = int(asked.get("output", "5"))
    cap = body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens")
    output = wanted if cap is None or "ignore_cap" in asked else min(wanted, cap)
    return int(asked.get("prompt", "7")), output * int(body.get("n") or 1)


def _book(who: str, prompt: int, output: int) -> None:
    BOOKS.calls[who] += 1
    BOOKS.prompt[who] += prompt
    BOOKS.output[who] += output


def _words(asked: dict[str, str], output: int) -> list[str]:
    said = asked.get("say", "")
    return [said[at : at + 5] for at in range(0, len(said), 5)] or [f"w{i} " for i in range(output)]


async def _chat(send: Any, body: dict[str, Any], asked: dict[str, str], who: str) -> None:
    prompt, output = _charge(body, asked)
    BOOKS.n += 1
    text = asked.get("say", f"answer {BOOKS.n}")
    base = {"id": f"chatcmpl-{BOOKS.n}", "created": 1, "model": asked.get("model", body.get("model"))}
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if not body.get("stream"):
        _book(who, prompt, output)
        choices = [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            for i in range(int(body.get("n") or 1))
        ]
        answer = base | {"object": "chat.completion", "choices": choices}
        await _json(send, 200, answer if "no_usage" in asked else answer | {"usage": usage})
        return
    await _start(send, 200, b"text/event-stream")
    hangup = int(asked["hangup"]) if "hangup" in asked else None
    pause = float(asked.get("pause", "0"))
    sent = 0
    try:
        for i, word in enumerate(_words(asked, output)):
            if hangup is not None and i >= hangup:
                await HANG_UP.wait()
                HANG_UP.clear()
                raise ConnectionResetError("told to hang up")
            delta = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
            await _event(send, base | {"object": "chat.completion.chunk", "choices": [delta]})
            sent += 1
            await asyncio.sleep(pause)
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await _event(send, base | {"object": "chat.completion.chunk", "choices": [end]})
        if (body.get("stream_options") or {}).get("include_usage") and "no_usage" not in asked:
            await _event(send, base | {"object": "chat.completion.chunk", "choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
    finally:
        _book(who, prompt, sent)


async def _responses(send: Any, body: dict[str, Any], asked: dict[str, str], who: str) -> None:
    prompt, output = _charge(body, asked)
    _book(who, prompt, output)
    BOOKS.n += 1
    content = [{"type": "output_text", "text": asked.get("say", f"answer {BOOKS.n}"), "annotations": []}]
    item = {"type": "message", "id": f"msg_{BOOKS.n}", "role": "assistant", "status": "completed", "content": content}
    answer = {
        "id": f"resp_{BOOKS.n:08x}",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": body.get("model"),
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "previous_response_id": body.get("previous_response_id"),
        "usage": {
            "input_tokens": prompt,
            "output_tokens": output,
            "total_tokens": prompt + output,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }
    if not body.get("stream"):
        await _json(send, 200, answer)
        return
    await _start(send, 200, b"text/event-stream")
    created = answer | {"status": "in_progress", "output": [], "usage": None}
    await _event(send, {"type": "response.created", "response": created, "sequence_number": 0})
    for i, word in enumerate(_words(asked, output)):
        delta = {"item_id": item["id"], "output_index": 0, "content_index": 0, "delta": word, "logprobs": []}
        await _event(send, {"type": "response.output_text.delta", "sequence_number": i + 1, **delta})
        await asyncio.sleep(float(asked.get("pause", "0")))
    await _event(send, {"type": "response.completed", "response": answer, "sequence_number": output + 1})
    await send({"type": "http.response.body", "body": b""})


async def _messages(send: Any, body: dict[str, Any], asked: dict[str, str], who: str) -> None:
    """Anthropic's API: what is read from its cache and written to it, by how long it is kept, beside the input."""
    output, minutes, hour = (int(asked.get(name, "0")) for name in ("output", "minutes", "hour"))
    usage = {
        "input_tokens": int(asked.get("prompt", "7")),
        "cache_read_input_tokens": int(asked.get("cached", "0")),
        "cache_creation_input_tokens": minutes + hour,
        "cache_creation": {"ephemeral_5m_input_tokens": minutes, "ephemeral_1h_input_tokens": hour},
        "output_tokens": output,
    }
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_reason": "end_turn"}
    if not body.get("stream"):
        await _json(send, 200, answer | {"content": [{"type": "text", "text": "hi"}], "usage": usage})
        return
    await _start(send, 200, b"text/event-stream")
    begun = answer | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    await _event(send, {"type": "message_start", "message": begun})
    await _event(send, {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    for i in range(output):
        delta = {"type": "text_delta", "text": f"w{i} "}
        await _event(send, {"type": "content_block_delta", "index": 0, "delta": delta})
    await _event(send, {"type": "content_block_stop", "index": 0})
    told = {"output_tokens": output}
    await _event(send, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": told})
    await _event(send, {"type": "message_stop"})
    await send({"type": "http.response.body", "body": b""})


async def _embeddings(send: Any, body: dict[str, Any], asked: dict[str, str], who: str) -> None:
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    prompt = int(asked.get("prompt", "7"))
    _book(who, prompt, 0)
    data = [{"object": "embedding", "index": i, "embedding": [0.1, 0.2, 0.3]} for i in range(len(given))]
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    await _json(send, 200, {"object": "list", "model": body["model"], "data": data, "usage": usage})


async def _images(send: Any, body: dict[str, Any], asked: dict[str, str], who: str) -> None:
    _book(who, 0, 0)
    images = [{"url": "http://127.0.0.1/image.png"} for _ in range(int(body.get("n") or 1))]
    await _json(send, 200, {"created": 1, "data": images})


async def _rerank(send: Any, body: dict[str, Any], asked: dict[str, str], who: str) -> None:
    _book(who, 0, 0)
    results = [{"index": i, "relevance_score": 1 / (i + 1)} for i in range(len(body["documents"]))]
    meta = {"billed_units": {"search_units": 1}}
    await _json(send, 200, {"id": "rerank-1", "results": results, "meta": meta})


_SERVED = {
    "/chat/completions": _chat,
    "/responses": _responses,
    "/messages": _messages,
    "/embeddings": _embeddings,
    "/images/generations": _images,
    "/rerank": _rerank,
    "/v2/rerank": _rerank,
}


async def _start(send: Any, status: int, kind: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})


async def _json(send: Any, status: int, value: Any) -> None:
    await _start(send, status, b"application/json")
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def _event(send: Any, value: dict[str, Any]) -> None:
    line = f"event: {value['type']}\n" if "type" in value else ""
    body = f"{line}data: {json.dumps(value)}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})


class Upstream:
    """A running provider, and its books."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, trust_env=False)

    def books(self) -> dict[str, Any]:
        return self._client.get("/books").json()  # type: ignore[no-any-return]  # JSON

    def reset(self) -> None:
        self._client.post("/reset")

    def hang_up(self) -> None:
        self._client.post("/hang_up")

    def close(self) -> None:
        self._client.close()


@contextmanager
def running() -> Iterator[Upstream]:
    """The provider in a process of its own."""
    process = subprocess.Popen([sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        upstream = Upstream(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
        try:
            yield upstream
        finally:
            upstream.close()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", parser.parse_args().port))
        listening.listen(1024)
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(
            app, log_level="critical", lifespan="off", access_log=False, timeout_graceful_shutdown=1
        )  # type: ignore[arg-type]
        asyncio.run(uvicorn.Server(config).serve([listening]))


if __name__ == "__main__":
    main()
