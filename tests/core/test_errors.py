from __future__ import annotations

import datetime as dt
import re

import pytest

from tenant_middleware import errors
from tenant_middleware.errors import BudgetExceeded, RateLimited, Refusal, TenancyError, in_form, missing_extra


def all_below(kind: type[BaseException]) -> list[type[BaseException]]:
    ours = [
        sub for sub in kind.__subclasses__() if getattr(errors, sub.__name__, None) is sub
    ]  # no form for a framework
    return [deeper for sub in ours for deeper in (sub, *all_below(sub))]


class Framed(Exception):
    """What a framework lets through."""


def drawn() -> dict[str, str | None]:
    """Name and parent of each line of the tree in the module's docstring."""
    found: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│ ]*)(?:[├└]── )?([A-Z]\w+)\b", line)
        if match is None or (path and not match.group(0).strip().startswith(("│", "├", "└"))):
            continue
        depth = line.index(match[2]) // 4 - 1
        path[depth:] = [match[2]]
        found[match[2]] = path[depth - 1] if depth else None
    return found


def test_the_tree_that_is_drawn_is_the_tree() -> None:
    real: dict[str, str | None] = {"TenancyError": None}
    for kind in all_below(TenancyError):
        real[kind.__name__] = kind.__bases__[0].__name__
    assert drawn() == real
    assert set(real) | {"in_form", "missing_extra"} == set(errors.__all__)


def test_no_error_of_ours_is_a_runtime_error() -> None:
    """LlamaIndex renames every RuntimeError that leaves a loop."""
    kinds = all_below(TenancyError)
    assert len(kinds) >= 17 and not [kind for kind in kinds if issubclass(kind, RuntimeError)]


STATUS = {
    "AuthenticationError": 401,
    "BudgetBusy": 402,
    "BudgetExceeded": 402,
    "ForeignReference": 403,
    "GuardrailBlocked": 403,
    "ModelForbidden": 403,
    "RateLimited": 429,
    "TenantSuspended": 403,
}


def test_each_refusal_has_the_status_and_code_of_its_edge() -> None:
    refusals = all_below(Refusal)
    assert {kind.__name__: kind.http_status for kind in refusals} == STATUS  # type: ignore[attr-defined]  # all Refusals
    codes = [kind.code for kind in refusals]  # type: ignore[attr-defined]  # all Refusals
    assert len(set(codes)) == len(codes) and Refusal.code not in codes


def refusal() -> BudgetExceeded:
    return BudgetExceeded(
        "budget of the month is spent",
        rule="budget",
        tenant_id="acme",
        model="m",
        limit=1,
        used=0.5,
        retry_after=3.0,
        resets_at=dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
    )


def test_in_form_keeps_fields_cause_and_class() -> None:
    error = refusal()
    try:
        raise error from KeyError("why")
    except BudgetExceeded as raised:
        twin = in_form(raised, Framed)
    assert isinstance(twin, BudgetExceeded) and isinstance(twin, Framed) and isinstance(twin, Refusal)
    assert vars(twin) == vars(error) and twin.args == error.args and str(twin) == str(error)
    assert isinstance(twin.__cause__, KeyError) and twin.__suppress_context__
    assert twin.__traceback__ is error.__traceback__ is not None
    assert twin.http_status == 402 and type(twin).__name__ == "BudgetExceeded"


def test_in_form_of_what_has_the_form_is_itself() -> None:
    twin = in_form(refusal(), Framed)
    assert in_form(twin, Framed) is twin
    assert type(in_form(refusal(), Framed)) is type(twin)


def test_a_caught_twin_can_be_raised_again() -> None:
    with pytest.raises(RateLimited) as caught:
        raise in_form(RateLimited("slow down", rule="rpm", retry_after=1.5), Framed)
    assert caught.value.retry_after == 1.5 and caught.value.rule == "rpm"


def test_every_public_error_says_what_it_is() -> None:
    for kind in (TenancyError, *all_below(TenancyError)):
        assert kind.__doc__ and kind.__doc__ != Exception.__doc__, kind


def test_a_missing_extra_names_it_and_the_way_out() -> None:
    error = missing_extra("redisvl", "tenant_middleware.backends.redisvl")
    assert isinstance(error, ImportError)
    assert 'pip install "tenant-middleware[redisvl]"' in str(error)
    assert "tenant_middleware.backends.redisvl" in str(error)
