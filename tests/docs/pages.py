"""The pages of the documentation as programs: what stands in their fenced blocks."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import CO_COROUTINE
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# An `output` block says what the Python block before it prints.
_BLOCK = re.compile(r"^( *)```(python|output)[^\n]*\n(.*?)^\1```[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text without the page's indent, and the line it begins on."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        lines = (line.removeprefix(match[1]) for line in match[3].splitlines())
        yield Block(match[2], "\n".join(lines) + "\n", text[: match.start(3)].count("\n"))


def run(block: Block, page: Path, names: dict[str, Any]) -> str:
    """Run a Python block, in which `await` may stand by itself, and return what it printed."""
    source = "\n" * block.line + block.text  # so that a traceback names the page's own lines
    code = compile(source, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
    return printed.getvalue()
