"""Whatever comes in or goes out, by whoever and in whatever pieces: a verdict, the same every time."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenant_middleware.errors import IsolationBreach
from tenant_middleware.guardrails import AnswerGuard, CanaryGuard, Registry, scan, scan_output
from tenant_middleware.guardrails.rulebook import default_rulebook
from tenant_middleware.guardrails.views import DEPTH, EXPANSION, hidden_views, plain_view
from tenant_middleware.tenant import Tenant
from tests.guardrails.devset.rows import DISGUISES

ACME, GLOBEX = Tenant("acme", "gold"), Tenant("globex", "gold")
CANARY = "GLX-7f3e-canary-91ab"
ANY = st.text(max_size=200)
NAMES = st.text(min_size=1, max_size=24)
SAFE = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=80)
ROLES = st.sampled_from(["user", "system", "tool", "assistant", "memory", "retrieved"])
PARTS = st.lists(
    st.sampled_from(
        ["switch to ", "tenant ", "Globex", "'s ", "list all ", "invoices", "\n", '"', "> ", "{", "}", "=", "\u200b",
         "%20", "&#65;", "0x41 ", "QWNtZSBpcyBoZXJl", "租户", "١", "ß", "\U000e0041", "ﷺ", "ĳ", "İ"]
    ),
    max_size=30,
).map("".join)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    st.one_of(ANY, PARTS),
    st.none() | NAMES,
    st.none() | NAMES,
    st.lists(st.tuples(NAMES, NAMES), max_size=4),
    st.lists(st.tuples(ROLES, st.one_of(ANY, PARTS)), max_size=3),
)
def test_any_caller_and_registry_gets_one_verdict(
    text: str, tenant: str | None, name: str | None, known: list[tuple[str, str]], messages: list[tuple[str, str]]
) -> None:
    def verdict() -> object:
        return scan(text, tenant=tenant, tenant_name=name, known_tenants=known, messages=messages)

    first = scan(text, tenant=tenant, tenant_name=name, known_tenants=known, messages=messages)
    assert 0 <= first.score <= 1 and first == verdict()
    assert first.blocked <= first.flagged


@settings(max_examples=100, deadline=None)
@given(st.one_of(ANY, PARTS))
def test_views_of_any_text_stay_within_their_budget(text: str) -> None:
    plain = plain_view(text)
    views = list(hidden_views(text, plain, 0, default_rulebook()))
    assert sum(len(v.text) for v in views) <= EXPANSION * len(text) + 2_000
    assert all(v.kind.count("+") < DEPTH for v in views)
    for start, end in ((0, len(plain.text)), (0, 0), (len(plain.text) // 2, len(plain.text))):
        at = plain.locate(start, end)
        assert 0 <= at[0] <= at[1] <= len(text)


SPELT: dict[str, Callable[[str], str]] = {
    "plain": str,
    "base64": lambda t: base64.b64encode(t.encode()).decode(),
    "hex": lambda t: t.encode().hex(),
    "rot13": lambda t: codecs.encode(t, "rot13"),
    "reversed": lambda t: t[::-1],
    "spaced": " ".join,
    "zero width": "\u200b".join,
    "full width": DISGUISES["full_width"],
    "capitals": str.upper,
}


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@settings(max_examples=80, deadline=None)
@example("", "00000000", "base64", [])
@example("tomorrow", "Yesterday", "base64", [7])
@given(SAFE, SAFE, st.sampled_from(sorted(SPELT)), st.lists(st.integers(0, 400), max_size=6))
def test_canary_is_found_however_the_answer_is_cut(before: str, after: str, how: str, cuts: list[int]) -> None:
    answer = f"{before}\n{SPELT[how](CANARY)}\n{after}"
    chunks = pieces(answer, cuts)
    assert "".join(chunks) == answer
    assert scan_output("", tenant="acme", canaries={"globex": CANARY}, chunks=chunks).blocked
    assert scan_output(answer, tenant="acme", canaries={"globex": CANARY}).blocked
    assert not scan_output("", tenant="globex", canaries={"globex": CANARY}, chunks=chunks).flagged


@settings(max_examples=80, deadline=None)
@given(SAFE, SAFE, st.sampled_from(sorted(SPELT)), st.lists(st.integers(0, 400), max_size=6))
def test_stream_shows_nothing_of_a_foreign_canary_and_all_of_the_rest(
    before: str, after: str, how: str, cuts: list[int]
) -> None:
    guard = CanaryGuard(b"k" * 16, random=lambda size: b"\x5a" * size)
    minted = guard.mint(GLOBEX)
    answer = f"{before}\n{SPELT[how](minted)}\n{after}"

    def shown(tenant: Tenant, text: str) -> str:
        stream = guard.stream(tenant)
        return "".join(stream.push(piece) for piece in pieces(text, cuts)) + stream.close()

    with pytest.raises(IsolationBreach):
        shown(ACME, answer)
    assert minted not in shown(GLOBEX, answer)
    clean = f"{before}\n{after}"
    assert shown(ACME, clean) == clean


@settings(max_examples=60, deadline=None)
@given(st.one_of(ANY, PARTS), ANY)
def test_answer_guard_takes_any_answer_and_prompt(answer: str, prompt: str) -> None:
    told: list[object] = []
    guard = AnswerGuard(
        Registry(["acme", "globex"]), on_flag=lambda tenant, verdict: told.append(verdict), system_prompt=prompt
    )
    verdict = guard.check(answer, ACME)
    assert verdict.action in ("allow", "flag") and bool(told) == verdict.flagged
