"""What is wrong with settings, in the words of the policy file: the key, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

_WORDS = {
    "missing": "required, and not given",
    "tuple_type": 'expected a list, such as ["a", "b"]',
    "dict_type": "expected a section, or { key = value }",
    "model_type": "expected a section, or { key = value }",
}


def complaints(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """One line for each mistake, without its value; a misspelt key is answered by the one that was meant."""
    for entry in error.errors(include_input=False, include_url=False, include_context=False):
        where = ".".join(str(step) for step in entry["loc"])
        if entry["type"] == "extra_forbidden":
            said = _no_such_key(str(entry["loc"][-1]), _keys(model, entry["loc"][:-1]))
        else:
            said = _WORDS.get(entry["type"]) or entry["msg"].removeprefix("Value error, ")
        yield f"{where}: {said}" if where else said


def _no_such_key(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"no such key; did you mean {near[0]}?" if near else f"no such key; expected one of {', '.join(known)}"


def _keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys of the section that a path leads to."""
    here: Any = model
    for step in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(step)].annotation
        else:
            here = get_args(here)[-1]  # a mapping of names to sections
        here = next((kind for kind in (here, *get_args(here)) if _is_section(kind)), here)
    return list(here.model_fields)


def _is_section(kind: Any) -> bool:
    return get_origin(kind) in (dict, Mapping) or (isinstance(kind, type) and issubclass(kind, BaseModel))
