"""Unit vectors from wordllama's packaged table: 256 dimensions, no network, some microseconds a text."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenant_middleware.errors import InvalidInput, missing_extra

DIMENSIONS = 256
MODEL_NAME = "wordllama-l2-supercat-256"
MAX_CHARACTERS = 32_000


def embed(text: str) -> list[float]:
    """A unit vector for a text, of which the first 32,000 characters count; InvalidInput for one without any word.

    The mean over its tokens' vectors, text by text: wordllama's own call pads a batch to its longest text, and a
    vector should not depend on what else stood in its batch.
    """
    table = _table()
    ids = table.tokenizer.encode(text[:MAX_CHARACTERS].strip(), add_special_tokens=False).ids
    mean = table.embedding[ids].mean(axis=0, dtype="float64") if ids else None
    length = 0.0 if mean is None else math.sqrt(float(mean @ mean))
    if mean is None or length == 0.0:
        raise InvalidInput("embedding: expected text with at least one word, got none")
    vector: list[float] = (mean / length).tolist()
    return vector


@functools.lru_cache(maxsize=1)
def _table() -> Any:
    with _root_logger_kept():
        try:
            import wordllama
        except ImportError as error:
            raise missing_extra("local", "tenant_middleware.local.embeddings") from error
    # Without these two arguments it looks for its files in the home folder and downloads them.
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """wordllama configures the root logger on import, which is the application's to do."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
