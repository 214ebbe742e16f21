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
    return [section for name, text in found for section in _sections(tenant_id, name, text)]


def _sections(tenant_id: str, name: str, text: str) -> Iterator[Document]:
    _, *rest = _HEADING.split(text)
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        place = f"{name}#{_anchor(title)}"
        yield Document(
            id=place,
            page_content=f"{title}. {' '.join(body.split())}",
            metadata={"source": f"{tenant_id}/{place}"},
        )


def _anchor(title: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))
