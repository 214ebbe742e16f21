"""What the README and the pages show runs as it stands, prints what they say, and links to what is there."""

from __future__ import annotations

import contextlib
import gc
import re
from pathlib import Path
from typing import Any

import pytest

from tenant_middleware.isolation.seal import unseal_all
from tests.docs.pages import ROOT, blocks, pages, run

PAGES = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]


# LlamaIndex reads every attribute of an agent when it makes one, those that pydantic deprecates too.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": f"page_{page.stem}"}
    printed = ""
    try:
        for block in blocks(page):
            if block.language == "python":
                printed = run(block, page, names)
            else:
                assert printed.split() == block.text.split(), f"{page.name}:{block.line}: prints something else"
    finally:
        unseal_all()
        for value in list(names.values()):
            close = getattr(value, "close", None)
            if callable(close) and type(value).__module__.startswith("tenant_middleware"):
                with contextlib.suppress(TypeError):  # a class, not an object
                    close()
        names.clear()
        gc.collect()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
