"""Canaries: found in every disguise, never in clean text, the same in one piece and in many."""

from __future__ import annotations

import base64
import codecs
import html
import random
from collections.abc import Callable

import pytest

from tenant_middleware.errors import ConfigurationError, InvalidInput, IsolationBreach
from tenant_middleware.guardrails import CanaryGuard, Incident, Segment, scan_output
from tenant_middleware.guardrails.canary import ID_LETTERS, MARK
from tenant_middleware.tenant import Tenant
from tests.guardrails.devset.rows import rows

ACME, GLOBEX = Tenant("acme", "gold"), Tenant("globex", "gold")
KEY = b"sixteen bytes at least"

DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper": str.upper,
    "mixed case": lambda c: "".join(x.upper() if i % 3 else x for i, x in enumerate(c)),
    "spaced": " ".join,
    "dotted": ".".join,
    "hyphens": lambda c: "-".join(c[i : i + 4] for i in range(0, len(c), 4)),
    "lines": lambda c: "\n".join(c[i : i + 10] for i in range(0, len(c), 10)),
    "markdown": lambda c: "**" + "**_".join(c[i : i + 11] for i in range(0, len(c), 11)) + "**",
    "zero width": lambda c: "\u200b".join(c),
    "full width": lambda c: "".join(chr(ord(x) + 0xFEE0) for x in c),
    "bold": lambda c: "".join(chr(0x1D41A + ord(x) - 97) for x in c),
    "lookalikes": lambda c: c.translate(str.maketrans("xyphc", "хурһс")),
    "tags": lambda c: "ok" + "".join(chr(0xE0000 + ord(x)) for x in c),
    "reversed": lambda c: c[::-1],
    "rot13": lambda c: codecs.encode(c, "rot13"),
    "base64": lambda c: base64.b64encode(c.encode()).decode(),
    "base64 url": lambda c: base64.urlsafe_b64encode(f"ref {c} end".encode()).decode().rstrip("="),
    "base64 twice": lambda c: base64.b64encode(base64.b64encode(c.encode())).decode(),
    "base32": lambda c: base64.b32encode(c.encode()).decode(),
    "base85": lambda c: base64.b85encode(c.encode()).decode(),
    "hex": lambda c: c.encode().hex(),
    "hex spaced": lambda c: c.encode().hex(" "),
    "url": lambda c: "".join(f"%{b:02X}" for b in c.encode()),
    "entities": lambda c: "".join(f"&#{ord(x)};" for x in c),
    "escapes": lambda c: "".join(f"\\u{ord(x):04x}" for x in c),
    "binary": lambda c: " ".join(f"{b:08b}" for b in c.encode()),
    "base64 of reversed": lambda c: base64.b64encode(c[::-1].encode()).decode(),
    "html link": lambda c: f'<a href="https://x.example/?q={html.escape(c)}">x</a>',
}


@pytest.fixture
def incidents() -> list[Incident]:
    return []


@pytest.fixture
def quarantined() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def guard(incidents: list[Incident], quarantined: list[tuple[str, str]]) -> CanaryGuard:
    numbers = random.Random(7)
    return CanaryGuard(
        KEY,
        on_incident=incidents.append,
        quarantine=lambda tenant, entry: quarantined.append((tenant.id, entry)),
        random=numbers.randbytes,
    )


@pytest.mark.parametrize("name", sorted(DISGUISES))
def test_foreign_canary_blocks_and_own_one_is_taken_out(name: str, guard: CanaryGuard) -> None:
    canary = guard.mint(GLOBEX)
    answer = f"The plan costs 89 USD. {DISGUISES[name](canary)} Anything else?"
    assert guard.scan(answer, ACME).blocked
    assert guard.scan(answer, GLOBEX).action == "allow"
    stripped = guard.strip(answer, GLOBEX)
    assert not guard.sightings(stripped)
    assert stripped.startswith("The plan costs 89 USD.") and stripped.rstrip().endswith("Anything else?")


def test_a_canary_without_an_owner_is_somebody_elses() -> None:
    canary = "WAYNE-7f3e91ab-canary"
    assert scan_output(f"Sure: {canary}", tenant="acme", canaries=[canary]).blocked
    assert not scan_output("Sure.", tenant="acme", canaries=[canary]).flagged
    with pytest.raises(InvalidInput, match="canaries"):
        scan_output("Sure.", tenant="acme", canaries=canary)


def test_scan_output_takes_foreign_canaries_by_owner() -> None:
    planted = {"acme": "OWN-canary-4711-aabbcc", "globex": "GLX-canary-9f8e7d6c5b4a"}
    caught = [
        name
        for name, disguise in DISGUISES.items()
        if scan_output(f"Sure. {disguise(planted['globex'].lower())} Bye.", tenant="acme", canaries=planted).blocked
    ]
    assert len(caught) >= 0.95 * len(DISGUISES), sorted(set(DISGUISES) - set(caught))
    assert not scan_output(f"Sure. {planted['acme']}", tenant="acme", canaries=planted).flagged
    torn = ["Sure. GLX-can", "ary-9f8e", "7d6c5b4a"]
    assert scan_output("Sure.", tenant="acme", canaries=planted, chunks=torn).blocked


def test_clean_text_is_never_taken_for_a_canary(guard: CanaryGuard) -> None:
    guard.mint(GLOBEX)
    texts = [row.text for row in rows()]
    assert not any(guard.scan(text, ACME).flagged for text in texts)
    noise = random.Random(3)
    for _ in range(300):
        assert not guard.scan(base64.b64encode(noise.randbytes(120)).decode(), ACME).flagged


def test_forged_canary_is_no_canary(guard: CanaryGuard) -> None:
    canary = guard.mint(GLOBEX)
    at = canary.index(MARK) + len(MARK) + ID_LETTERS
    forged = canary[:at] + ("b" if canary[at] != "b" else "c") + canary[at + 1 :]
    other = CanaryGuard(b"another key of 16+")
    assert not other.scan(canary, ACME).flagged, "another deployment's canary means nothing here"
    assert guard.scan(canary, ACME).blocked
    assert not CanaryGuard(KEY).scan(forged, ACME).flagged
    assert GLOBEX.id not in canary


def test_a_worker_that_shares_the_key_alone_knows_whose_a_canary_is(guard: CanaryGuard) -> None:
    """What was planted where documents are ingested is found where answers leave, without a store between them."""
    elsewhere = CanaryGuard(KEY)
    document = guard.plant("Globex price list", GLOBEX)
    assert elsewhere.strip(document, GLOBEX) == "Globex price list"
    assert elsewhere.scan(document, ACME).blocked
    assert elsewhere.scan(document, Tenant("Globex", "gold")).blocked, "an id that differs in case is another tenant"


@pytest.mark.parametrize("size", [1, 3, 7, 40, 5_000])
@pytest.mark.parametrize("name", ["plain", "hex spaced", "binary", "base64", "zero width", "entities"])
def test_stream_gives_what_the_whole_would(name: str, size: int, guard: CanaryGuard) -> None:
    text = "Our price list is due in May. " * 40
    canary = guard.mint(ACME)
    answer = f"{text}{DISGUISES[name](canary)} {text}"
    stream = guard.stream(ACME)
    given = "".join([*(stream.push(answer[i : i + size]) for i in range(0, len(answer), size)), stream.close()])
    assert not guard.sightings(given)
    assert given.startswith(text) and given.endswith(text)

    stream, shown = guard.stream(GLOBEX), ""
    with pytest.raises(IsolationBreach):
        for i in range(0, len(answer), size):
            shown += stream.push(answer[i : i + size])
        shown += stream.close()
    assert text.startswith(shown), "nothing of the canary, nor after it, was shown"
    with pytest.raises(InvalidInput):
        stream.push("more")
    assert stream.close() == ""


def test_plain_stream_loses_nothing(guard: CanaryGuard) -> None:
    noise = random.Random(1)
    answer = "".join(noise.choice("abc déz 日本 😀\n.,%&\\") for _ in range(3_000))
    stream = guard.stream(ACME)
    assert "".join([*(stream.push(c) for c in answer), stream.close()]) == answer


def test_leak_raises_an_incident_and_quarantines_the_cache_entry(
    guard: CanaryGuard, incidents: list[Incident], quarantined: list[tuple[str, str]]
) -> None:
    document = guard.plant("Globex price list", GLOBEX)
    with pytest.raises(IsolationBreach) as caught:
        stream = guard.stream(ACME, cache_entry="entry-1")
        stream.push(document)
        stream.close()
    assert incidents == [Incident("acme", "globex", "", "leak", "entry-1", incidents[0].canary)]
    assert guard.is_of(incidents[0].canary, "globex") and not guard.is_of(incidents[0].canary, "acme")
    assert quarantined == [("acme", "entry-1")]
    assert "globex" not in str(caught.value).lower()
    assert guard.strip(document, GLOBEX) == "Globex price list"


def test_replayed_canary_is_held_against_nobody(guard: CanaryGuard, incidents: list[Incident]) -> None:
    canary = guard.mint(GLOBEX)
    replayed = guard.replayed([Segment(f"what is {canary}?"), Segment(canary, "retrieved")], ACME)
    assert replayed == {canary}
    assert [i.kind for i in incidents] == ["replay"], "a retrieved one isn't a replay"
    verdict = guard.scan(f"You wrote {canary}.", ACME, replayed=replayed)
    assert verdict.action == "flag" and verdict.rules == ("replayed-canary",)
    stream = guard.stream(ACME, replayed=replayed)
    assert canary not in stream.push(f"You wrote {canary}.") + stream.close()
    assert [i.kind for i in incidents] == ["replay"]


def test_short_key_and_window_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        CanaryGuard(b"short")
    with pytest.raises(ConfigurationError):
        CanaryGuard(KEY).stream(ACME, window=10)
    with pytest.raises(InvalidInput):
        scan_output("x", tenant="acme", canaries={"globex": "abc"})
