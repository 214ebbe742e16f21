"""A provider's model by way of LiteLLM, against a server on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tenant_middleware.demo.llm import choose
from tenant_middleware.errors import ConfigurationError

PROGRAM = """
import sys
from tenant_middleware.demo.llm import choose
from tenant_middleware.errors import StoreUnavailable
chosen = choose("litellm:openai/gpt-4o-mini")
try:
    said = chosen.model.invoke("What is the price?", max_tokens=7, stop=["!"])
    print(chosen.name, "|", said.text, "|", said.usage_metadata["input_tokens"], said.usage_metadata["output_tokens"])
except StoreUnavailable as error:
    print("refused:", error)
"""


class Provider(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(asked)
        good = self.headers["authorization"] == "Bearer good"
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "gpt-4o-mini",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "89 USD"}}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        }
        text = json.dumps(answer if good else {"error": {"message": "bad key sk-123", "type": "auth"}}).encode()
        self.send_response(200 if good else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def provider() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Provider)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server: HTTPServer, key: str) -> str:
    environment = {"OPENAI_API_BASE": f"http://127.0.0.1:{server.server_port}/v1", "OPENAI_API_KEY": key, "PATH": ""}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip().splitlines()[-1]


def test_a_providers_model_keeps_the_cap_and_reports_usage(provider: HTTPServer):
    assert ask(provider, "good") == "openai/gpt-4o-mini | 89 USD | 11 3"
    [asked] = provider.asked
    assert asked["max_tokens"] == 7 and asked["stop"] == ["!"] and asked["temperature"] == 0
    assert asked["messages"] == [{"role": "user", "content": "What is the price?"}]


def test_a_providers_refusal_is_told_without_its_words(provider: HTTPServer):
    assert ask(provider, "bad") == "refused: the provider of openai/gpt-4o-mini refused: AuthenticationError"


@pytest.mark.parametrize("llm", ["", "gpt-4o-mini", "litellm:"])
def test_an_unknown_choice_names_the_possible_ones(llm: str):
    with pytest.raises(ConfigurationError, match="local or litellm:MODEL"):
        choose(llm)


def test_the_local_model_is_the_default():
    chosen = choose("local")
    assert chosen.name == "openai/local" and chosen.stop
