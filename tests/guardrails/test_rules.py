"""The rules as data: each carries its own examples, and both engines read them the same way."""

from __future__ import annotations

import pytest

from tenant_middleware.errors import ConfigurationError
from tenant_middleware.guardrails.folding import fold
from tenant_middleware.guardrails.registry import Known, registry_of
from tenant_middleware.guardrails.rulebook import Rule, compile_rules, default_rulebook
from tenant_middleware.guardrails.scoring import find_hits, readings
from tests.guardrails.devset.rows import rows

REGISTRY = registry_of((Known("acme", ("Acme",)), Known("globex", ("Globex",))))
LONE = registry_of((Known("acme", ("Acme",)),))
RULES = default_rulebook().rules


def fulfilled(text: str, rule: Rule) -> bool:
    source = "user" if not rule.sources or "user" in rule.sources else sorted(rule.sources)[0]
    folded = fold(text)
    return any(
        rule.id in reading.rules
        for registry in (REGISTRY, LONE)
        for reading in readings(default_rulebook(), folded, registry, "acme", source, text)[1]
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.id)
def test_rule_matches_its_examples_and_nothing_it_must_not(rule: Rule) -> None:
    assert rule.positive and rule.negative, "a rule without examples can't be reviewed"
    for text in rule.positive:
        assert fulfilled(text, rule), text
    for text in rule.negative:
        assert not fulfilled(text, rule), text


def test_both_engines_find_the_same() -> None:
    fast, plain = default_rulebook("rust"), default_rulebook("python")
    for row in rows()[::25]:
        folded = fold(row.text)
        mentions = REGISTRY.mentions(folded, "acme")
        assert find_hits(fast, folded, mentions, row.text) == find_hits(plain, folded, mentions, row.text), row.id


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"rulez": []}, "unknown keys"),
        ({"rules": [{"id": "x", "family": "f", "score": 1, "all": ["nowhere"]}]}, "unknown category"),
        ({"rules": [{"id": "x", "family": "f", "score": 1, "all": [], "scores": 2}]}, "unknown keys"),
        ({"weights": {"clause": {"nowhere": 1.0}}}, "unknown categories"),
        ({"weights": {"bias": "high"}}, "expected a number"),
    ],
)
def test_misspelt_rule_is_an_error(document: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        compile_rules([("test.yaml", document)])


def test_weights_cover_the_categories_and_name_their_reason() -> None:
    weights = default_rulebook().weights
    assert weights.bias < 0 < weights.rule
    assert sum(w != 0 for w in weights.clause) > 60
    assert weights.because(default_rulebook().bit("foreign")) == "evidence:foreign"
