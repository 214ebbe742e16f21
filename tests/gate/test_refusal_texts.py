"""What a denial of a limit says: what was short, and what to do."""

from __future__ import annotations

import pytest

from tenant_middleware.admission.call import Call
from tenant_middleware.admission.plan import refusal
from tenant_middleware.admission.store import Denied
from tenant_middleware.tenant import Tenant


@pytest.mark.parametrize(
    ("denied", "text"),
    [
        (
            Denied("rpm", 60, 60, 0.7, None),
            "the limit of 60 requests a minute, of which a share (burst) may come at once, is used up: retry in 0.7 s",
        ),
        (Denied("concurrency", 4, 4, 0.05, None), "the limit of 4 calls at once is used up: retry in 0.05 s"),
        (
            Denied("tpm", 100, 333, None, None, True),
            "this call alone takes 333 of a limit of 100 tokens a minute: no wait helps",
        ),
    ],
    ids=["burst", "concurrency", "never"],
)
def test_a_limit_says_the_way_out(denied: Denied, text: str) -> None:
    assert str(refusal(denied, Call(Tenant("acme", "pro"), "m"), now=0.0)) == text
