"""The ledger as a FOCUS dataset (FinOps Open Cost and Usage Specification 1.4): each tenant is a SubAccount.

One charge for each day, tenant, model, kind of call and price. Unit prices are not published, so that the columns
that depend on a price list's unit prices are left out, and every cost equals the billed one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tenant_middleware.metering.ledger import LedgerRow, split
from tenant_middleware.metering.pricing import to_usd

COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "HostProviderName",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ServiceCategory",
    "ServiceName",
    "ServiceProviderName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    # Our own, after FOCUS's and with its prefix.
    "x_Tier",
    "x_Calls",
    "x_CacheHits",
    "x_PromptTokens",
    "x_CachedTokens",
    "x_CompletionTokens",
    "x_ReasoningTokens",
    "x_CacheWriteTokens",
    "x_CacheWrite1hTokens",
    "x_EstimatedCalls",
    "x_PriceSource",
    "x_PriceAsOf",
)
_SERVICES = {
    "chat": "Chat Completions",
    "embedding": "Embeddings",
    "rerank": "Reranking",
    "image": "Image Generation",
}


class _Charge(NamedTuple):
    """What rows have in common that make one charge."""

    day: str
    tenant_id: str
    tier: str
    provider: str
    model: str
    kind: str
    price_source: str
    price_as_of: str


def charges(
    rows: Iterable[LedgerRow], *, billing_account: str = "default", provider: str = "self-hosted"
) -> Iterator[dict[str, Any]]:
    """FOCUS rows, oldest day first. `provider` names whoever runs the models whose names don't say it."""
    found: dict[_Charge, list[LedgerRow]] = {}
    for row in split(rows):
        # A hit cost nothing and has no price of its own; it belongs to the model's charge of that day.
        price = ("", "") if row.status == "cache_hit" else (row.price_source, row.price_as_of)
        key = _Charge(row.day, row.tenant_id, row.tier, row.provider, row.model, row.kind, *price)
        found.setdefault(key, []).append(row)
    for key in sorted(found):
        yield _charge(key, found[key], billing_account, provider)


def _charge(key: _Charge, rows: list[LedgerRow], billing_account: str, provider: str) -> dict[str, Any]:
    day = dt.date.fromisoformat(key.day)
    month = day.replace(day=1)
    cost = f"{to_usd(sum(row.cost_nano for row in rows)):.9f}"
    hits = sum(row.status == "cache_hit" for row in rows)
    prompt, completion = (sum(getattr(row, f"{name}_tokens") for row in rows) for name in ("prompt", "completion"))
    by_tokens = key.kind in ("chat", "embedding")
    quantity = prompt + completion if by_tokens else len(rows) - hits
    who, service = key.provider or provider, _SERVICES.get(key.kind, key.kind.title())
    sku = f"{key.model}/{key.kind}"
    return {
        "BilledCost": cost,
        "BillingAccountId": billing_account,
        "BillingAccountName": None,
        "BillingCurrency": "USD",
        "BillingPeriodEnd": _midnight((month + dt.timedelta(days=32)).replace(day=1)),
        "BillingPeriodStart": _midnight(month),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{service} of {key.model}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": _midnight(day + dt.timedelta(days=1)),
        "ChargePeriodStart": _midnight(day),
        "ConsumedQuantity": quantity,
        "ConsumedUnit": "Tokens" if by_tokens else "Requests",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "HostProviderName": who,
        "InvoiceIssuerName": who,
        "ListCost": cost,
        "PricingQuantity": quantity,
        "PricingUnit": "Tokens" if by_tokens else "Requests",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": service,
        "ServiceProviderName": who,
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku,
        "SkuMeter": f"{service} {'Tokens' if by_tokens else 'Requests'}",
        "SkuPriceId": "@".join(filter(None, (sku, key.price_source, key.price_as_of))),
        "SubAccountId": key.tenant_id,
        "SubAccountName": key.tenant_id,
        "SubAccountType": "Tenant",
        "x_Tier": key.tier,
        "x_Calls": sum(row.status not in ("cache_hit", "attempt") for row in rows),
        "x_CacheHits": hits,
        "x_PromptTokens": prompt,
        "x_CachedTokens": sum(row.cached_tokens for row in rows),
        "x_CompletionTokens": completion,
        "x_ReasoningTokens": sum(row.reasoning_tokens for row in rows),
        "x_CacheWriteTokens": sum(row.cache_write_tokens for row in rows),
        "x_CacheWrite1hTokens": sum(row.cache_write_1h_tokens for row in rows),
        "x_EstimatedCalls": sum(row.source == "estimated" for row in rows),
        "x_PriceSource": key.price_source or None,
        "x_PriceAsOf": key.price_as_of or None,
    }


def _midnight(day: dt.date) -> str:
    return f"{day.isoformat()}T00:00:00Z"
