"""Where in an answer a text stands: answers are strings, documents, messages, states or anything that holds those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

MAX_DEPTH = 8
MAX_VALUES = 20_000
_PLAIN = (int, float, complex, bool, type(None), type)


def sighting(answer: object, code: str) -> str | None:
    """The path to the first text that holds `code`, such as `answer[0].page_content`; None where there is none.

    Looks into mappings, sequences and the attributes of objects, and at what printing the answer would show.
    """
    wanted = code.lower()
    for path, text in _texts(answer):
        if wanted in text.lower():
            return path
    return None


def _texts(answer: object) -> Iterator[tuple[str, str]]:
    """Breadth first, so that the shortest path is told."""
    waiting: list[tuple[str, object, int]] = [("answer", answer, 0)]
    seen: set[int] = set()
    for path, value, depth in waiting:
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, bytes):
            yield path, value.decode("utf-8", "replace")
        elif not isinstance(value, _PLAIN) and id(value) not in seen and depth < MAX_DEPTH:
            seen.add(id(value))
            if len(waiting) < MAX_VALUES:
                waiting.extend((f"{path}{step}", inner, depth + 1) for step, inner in _parts(value))
    yield "str(answer)", str(answer)


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in list(value.items()):
            yield f"[{name!r:.60}]", inner
            yield ".keys()", name
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", inner) for index, inner in enumerate(value))
    elif isinstance(value, Set):
        yield from (("{}", inner) for inner in value)
    else:
        names = getattr(value, "__dict__", {})
        yield from ((f".{name}", inner) for name, inner in list(names.items()))
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name):
                    yield f".{name}", getattr(value, name)
