"""Patterns of model names, in which `*` stands for any characters: what they cover, and whether two of them overlap."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(piece) for piece in pattern.split("*")), re.DOTALL)


def matches(pattern: str, model: str) -> bool:
    """Whether a pattern, in which `*` stands for any characters and all else for itself, covers the whole name."""
    return pattern == model or ("*" in pattern and _compiled(pattern).fullmatch(model) is not None)


def overlap(a: str, b: str) -> bool:
    """Whether some name is covered by both patterns; a table over their rests, so linear in len(a) * len(b)."""
    # One row and one column more than there are rests, where nothing is covered.
    meet = [[False] * (len(b) + 2) for _ in range(len(a) + 2)]
    for i in range(len(a), -1, -1):
        for j in range(len(b), -1, -1):
            x, y = a[i : i + 1], b[j : j + 1]  # "" where a pattern has ended
            if "*" in (x, y):  # the star covers one sign more of the other, or ends
                meet[i][j] = meet[i + 1][j] or meet[i][j + 1]
            else:
                meet[i][j] = x == y and (x == "" or meet[i + 1][j + 1])
    return meet[0][0]


def first_clash(owned: list[tuple[str, str]]) -> tuple[str, str] | None:
    """Two overlapping patterns of different tenants. Sorted by literal prefix: only neighbours there can overlap."""
    by_prefix = sorted(owned, key=lambda entry: entry[0].split("*", 1)[0])
    for index, (pattern, owner) in enumerate(by_prefix):
        prefix = pattern.split("*", 1)[0]
        for other, other_owner in by_prefix[index + 1 :]:
            if not other.split("*", 1)[0].startswith(prefix):
                break
            if owner != other_owner and overlap(pattern, other):
                return pattern, other
    return None
