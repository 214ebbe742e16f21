from __future__ import annotations

import logging
import math
import subprocess
import sys

import pytest

from tenant_middleware.errors import InvalidInput
from tenant_middleware.local import embeddings


def distance(a: list[float], b: list[float]) -> float:
    return 1 - sum(x * y for x, y in zip(a, b, strict=True))


def test_vectors_are_256_plain_floats_of_length_one():
    vector = embeddings().embed_query("What does the Premium plan cost?")
    assert len(vector) == 256 and all(type(x) is float for x in vector)
    assert math.isclose(sum(x * x for x in vector), 1.0)


async def test_a_vector_does_not_depend_on_its_batch():
    alone = embeddings().embed_query("short")
    batch = embeddings().embed_documents(["short", "a much longer text " * 40])
    assert batch[0] == alone == (await embeddings().aembed_documents(["x", "short"]))[1]
    assert await embeddings().aembed_query("short") == alone


def test_near_texts_are_near():
    asked, same, other = embeddings().embed_documents(
        ["What does the Premium plan cost?", "How much does the Premium plan cost?", "Who signs off on travel?"]
    )
    assert distance(asked, same) < 0.1 < 0.4 < distance(asked, other)


@pytest.mark.parametrize("text", ["", "  \n "])
def test_a_text_without_words_is_refused_rather_than_made_nan(text: str):
    with pytest.raises(InvalidInput, match="at least one word"):
        embeddings().embed_query(text)


def test_ten_megabytes_are_embedded_by_their_beginning():
    assert embeddings().embed_query("word " * 2_000_000) == embeddings().embed_query("word " * 6400)


def test_the_root_logger_is_left_to_the_application():
    embeddings().embed_query("hello")
    program = (
        "import logging; from tenant_middleware.local import embeddings; embeddings().embed_query('x'); "
        "print(logging.getLogger().handlers, logging.getLogger().level)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"[] {logging.WARNING}"
