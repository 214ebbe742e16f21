"""The companies' documents, cut into sections: what a retriever finds and a source names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

from langchain_core.documents import Document

_HEADING = re.compile(r"^## +(.+)$", re.MULTILINE)


def documents(tenant_id: str) -> list[Document]:
    """Every section of every document of a company; ids are the same for all companies."""
    folder = files(__package__).joinpath("corpus", tenant_id)
    found = sorted((entry.name, entry.read_text(encoding="utf-8")) for entry in folder.iterdir())
    return [section for name, text in found for section in _sections(name, text)]


def _sections(name: str, text: str) -> Iterator[Document]:
    _, *rest = _HEADING.split(text)
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        yield Document(
            id=f"{name}#{_anchor(title)}",
            page_content=f"{title}. {' '.join(body.split())}",
            metadata={"source": name, "section": title},
        )


def _anchor(title: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))
