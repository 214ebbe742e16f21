"""What an erasure leaves in the hand: per store what became of it, signed."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Fate = Literal["GONE", "HIDDEN", "UNVERIFIED"]
_LABEL = b"tenant-middleware erasure receipt"


@dataclass(frozen=True, slots=True)
class StoreReceipt:
    """GONE: a second look found nothing. HIDDEN: kept, but not under this tenant. UNVERIFIED: `leftovers` or `why`."""

    store: str
    fate: Fate
    erased: int
    leftovers: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Of whom, when, and store by store; `signature` is an HMAC by a key of the service's own.

    It is empty, and `key` is "none", unless [secrets] names a key: one that ends with the process could check nothing
    later.
    """

    tenant_id: str
    began: str
    ended: str
    key: Literal["configured", "none"]
    stores: tuple[StoreReceipt, ...]
    signature: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing is left that could be seen."""
        return all(store.fate != "UNVERIFIED" for store in self.stores)

    def as_json(self) -> dict[str, Any]:
        """The receipt as JSON values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]  # an object by construction

    def signed(self, secret: bytes) -> Receipt:
        """The receipt with its signature."""
        return replace(self, signature=_signature(self.as_json(), secret))


def verify(receipt: Mapping[str, Any], secret: bytes) -> bool:
    """Whether a receipt, read from JSON, is as it was signed; one without a signature never is."""
    return hmac.compare_digest(str(receipt.get("signature", "")), _signature(receipt, secret))


def _signature(values: Mapping[str, Any], secret: bytes) -> str:
    body = json.dumps({**values, "signature": ""}, sort_keys=True, separators=(",", ":"))
    return hmac.new(hmac.digest(secret, _LABEL, "sha256"), body.encode(), hashlib.sha256).hexdigest()
