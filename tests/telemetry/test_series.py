"""Metric series are bounded, whatever tenants come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenant_middleware.telemetry.series import OTHER, TopTenants


@given(st.lists(st.integers(0, 40), max_size=400), st.integers(1, 5))
def test_no_more_names_than_agreed_are_ever_given(traffic: list[int], most: int) -> None:
    top, given_names = TopTenants(most), set()
    for number in traffic:
        label = top.label(f"t{number}")
        assert label in (OTHER, f"t{number}")
        given_names.add(label)
        assert len(list(top)) <= most
    assert len(given_names - {OTHER}) <= 4 * most


def test_a_tenant_that_grows_gets_the_name_of_one_that_does_not() -> None:
    top = TopTenants(2)
    for name in ("big", "small"):
        top.label(name)
    for _ in range(50):
        top.label("big")
    for _ in range(1_000):
        top.label("new")
    assert top.label("new") == "new" and top.label("big") == "big" and top.label("small") == OTHER


def test_ten_thousand_strangers_take_bounded_memory() -> None:
    top = TopTenants(10)
    for number in range(10_000):
        top.label(f"t{number}")
    assert len(top._others) <= 41
