from __future__ import annotations

import re

import pytest

from tenant_middleware.demo.corpus import documents

TENANTS = ("acme", "globex", "initech")


@pytest.mark.parametrize("name", TENANTS)
def test_a_company_has_a_handbook_a_contract_and_prices(name: str):
    found = documents(name)
    files = {doc.id.partition("#")[0] for doc in found}
    assert {"handbook.md", "service-contract.md", "price-list.md"} <= files
    assert all(doc.metadata["source"] == f"{name}/{doc.id}" for doc in found)
    assert len({doc.id for doc in found}) == len(found)
    assert all(20 < len(doc.page_content.split()) < 130 for doc in found), "a section fits a small model's window"


def test_there_are_tens_of_pages():
    words = sum(len(doc.page_content.split()) for name in TENANTS for doc in documents(name))
    assert words / 450 > 20


def test_competitors_documents_are_near_identical_and_never_the_same():
    acme, globex = ({doc.id: doc.page_content for doc in documents(name)} for name in ("acme", "globex"))
    assert acme.keys() == globex.keys(), "the same ids: a store that forgets the tenant would overwrite"
    for place, text in acme.items():
        mine, theirs = (set(re.findall(r"\w+", part)) for part in (text, globex[place]))
        assert len(mine & theirs) / len(mine | theirs) > 0.5
    different = [place for place, text in acme.items() if text != globex[place]]
    assert len(different) / len(acme) > 0.9, "terms differ nearly everywhere, so that a leak shows"


def test_no_company_names_another():
    for name in TENANTS:
        text = " ".join(doc.page_content for doc in documents(name)).casefold()
        assert name in text
        assert not [other for other in TENANTS if other != name and other in text]
