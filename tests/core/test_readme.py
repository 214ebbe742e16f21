"""What the README shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent.parent / "README.md"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    try:
        exec(example, names)
    finally:
        names["tenancy"].close()  # type: ignore[attr-defined]  # the example's Tenancy
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["Premium costs 89 USD.", "no tenant, no answer"] and "globex" not in printed[2]


def test_every_page_that_it_names_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text("utf-8")):
        assert (README.parent / target).exists(), target
