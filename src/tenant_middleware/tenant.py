"""The tenant: an immutable value whose id is strict ASCII, compared exactly and never normalised."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tenant_middleware.errors import InvalidTenant

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_SUBJECT_MAX = 256


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who a call runs for. `id` and `tier` follow `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`; `subject` is the user behind it.

    Raises InvalidTenant for anything else; `Acme` and `acme` are two tenants.
    """

    id: str
    tier: str
    subject: str | None = None

    def __post_init__(self) -> None:
        check_name(self.id, "tenant id")
        check_name(self.tier, "tier")
        if self.subject is not None:
            check_subject(self.subject)

    def __str__(self) -> str:
        return self.id


def check_name(value: object, what: str) -> str:
    """The value itself when it follows the grammar; the error tells the grammar and not the value."""
    if isinstance(value, str) and _ID.match(value):
        return value
    came = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
    raise InvalidTenant(
        f"{what}: expected 1 to 128 of A-Z a-z 0-9 . _ - beginning with a letter or digit, got {came} outside that"
    )


def check_subject(value: object) -> str:
    """A subject is free text from the token, without control characters, of at most 256 characters."""
    if isinstance(value, str) and 0 < len(value) <= _SUBJECT_MAX and value.isprintable():
        return value
    raise InvalidTenant(f"subject: expected 1 to {_SUBJECT_MAX} printable characters")
