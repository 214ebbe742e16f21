"""Regular expressions in linear time: RE2 with the extra `guard`, and patterns that are linear under `re` without it.

Every repetition in a rule is bounded, so that `re` can't be driven into backtracking either; the rule tests run both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from tenant_middleware.guardrails.matching import Engine, Match

_MEMORY = 64 << 20


class PatternSet(Protocol):
    """Finds every match of every pattern as (index of the pattern, start, end)."""

    def find(self, text: str) -> list[Match]: ...


def pattern_set(sources: Sequence[str], engine: Engine = "auto") -> PatternSet:
    """The fastest set there is; both give the same matches."""
    if engine == "python" or (engine == "auto" and find_spec("re2") is None):
        return PythonPatterns(sources)
    return LinearPatterns(sources)


class PythonPatterns:
    """Each pattern in turn."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._patterns = [re.compile(source, re.ASCII) for source in sources]

    def find(self, text: str) -> list[Match]:
        return [(i, m.start(), m.end()) for i, pattern in enumerate(self._patterns) for m in pattern.finditer(text)]


class LinearPatterns:
    """One automaton says which patterns occur; only those are located."""

    def __init__(self, sources: Sequence[str]) -> None:
        library = import_module("re2")
        options = library.Options()
        options.log_errors = False
        options.max_mem = _MEMORY  # past it the automaton is thrown away and built anew, which costs 30 times a match
        self._set: Any = library.Set.SearchSet(options)
        for source in sources:
            self._set.Add(source)
        self._set.Compile()
        self._patterns = [library.compile(source, options) for source in sources]

    def find(self, text: str) -> list[Match]:
        return [
            (i, m.start(), m.end())
            for i in sorted(self._set.Match(text) or ())
            for m in self._patterns[i].finditer(text)
        ]
