"""The page about identity: its policy is one that loads, and its table names what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tenant_middleware.identity import IdentitySettings

PAGE = (Path(__file__).parents[2] / "docs" / "identity.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_policy_on_the_page_is_valid() -> None:
    (text,) = blocks("toml")
    assert IdentitySettings(**tomllib.loads(text)["identity"]).audiences == ("genai-platform",)


def test_table_names_real_settings_and_their_defaults() -> None:
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", PAGE, re.MULTILINE)
    fields = IdentitySettings.model_fields
    assert len(rows) > 6
    for names, default in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert name in fields
            if default == "none":
                assert fields[name].is_required() or fields[name].default is None
            elif len(re.findall(r"`\w+`", names)) == 1 and default.isdigit():
                assert fields[name].default == int(default)
