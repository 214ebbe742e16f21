"""The rules of FOCUS 1.4's Cost and Usage dataset that a row can be checked against by itself.

Written from the published specification (column tables, attributes, requirements), not from the exporter.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal

# Feature level Mandatory: has to be there; True where nulls are allowed.
MANDATORY = {
    "BilledCost": False,
    "BillingAccountId": False,
    "BillingAccountName": True,
    "BillingCurrency": False,
    "BillingPeriodEnd": False,
    "BillingPeriodStart": False,
    "ChargeCategory": False,
    "ChargeClass": True,
    "ChargeDescription": True,
    "ChargePeriodEnd": False,
    "ChargePeriodStart": False,
    "ContractedCost": False,
    "EffectiveCost": False,
    "HostProviderName": False,
    "InvoiceIssuerName": False,
    "ListCost": False,
    "PricingQuantity": True,
    "PricingUnit": True,
    "ServiceCategory": False,
    "ServiceName": False,
    "ServiceProviderName": False,
}
# Recommended and conditional ones that the dataset may have.
OTHERS = {
    "ChargeFrequency": False,
    "ConsumedQuantity": True,
    "ConsumedUnit": True,
    "ContractedUnitPrice": True,
    "ListUnitPrice": True,
    "ServiceSubcategory": False,
    "SkuId": True,
    "SkuMeter": True,
    "SkuPriceId": True,
    "SubAccountId": True,
    "SubAccountName": True,
    "SubAccountType": True,
}
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "ServiceCategory": {"AI and Machine Learning"},
    "ServiceSubcategory": {"Generative AI"},
}
NUMBERS = {"BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity", "ConsumedQuantity"}
TIMES = {"BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"}
_NUMBER = re.compile(r"-?\d+(\.\d+)?([Ee]-?\d+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def broken_columns(columns: list[str]) -> list[str]:
    """What is wrong with the heading."""
    own = [name for name in columns if name.startswith("x_")]
    focus = [name for name in columns if not name.startswith("x_")]
    wrong = [f"{name} is missing" for name in MANDATORY if name not in focus]
    wrong += [f"{name} is no FOCUS column and has no x_" for name in focus if name not in MANDATORY | OTHERS]
    if columns != focus + own:
        wrong.append("columns of our own stand among FOCUS's")
    return wrong


def broken_row(row: dict[str, str]) -> list[str]:
    """What is wrong with one row; an empty cell is null."""
    wrong = []
    for name, value in row.items():
        if value == "":
            if not (MANDATORY | OTHERS).get(name, True):
                wrong.append(f"{name} must not be null")
        elif name in NUMBERS and not _NUMBER.fullmatch(value):
            wrong.append(f"{name} is no number: {value}")
        elif name in TIMES and not _TIME.fullmatch(value):
            wrong.append(f"{name} is no UTC time: {value}")
        elif name in ALLOWED and value not in ALLOWED[name]:
            wrong.append(f"{name} has a value that isn't allowed: {value}")
    return wrong or _related(row)


def _related(row: dict[str, str]) -> list[str]:
    wrong = []
    if not re.fullmatch("[A-Z]{3}", row["BillingCurrency"]):
        wrong.append("BillingCurrency is no ISO 4217 code")
    for what in ("BillingPeriod", "ChargePeriod"):
        if not _time(row[f"{what}Start"]) < _time(row[f"{what}End"]):
            wrong.append(f"{what}End is not after its start")
    for quantity, unit in (("PricingQuantity", "PricingUnit"), ("ConsumedQuantity", "ConsumedUnit")):
        if (row[quantity] == "") != (row[unit] == ""):
            wrong.append(f"{unit} must be null exactly when {quantity} is")
    usage = row["ChargeCategory"] == "Usage" and row["ChargeClass"] != "Correction"
    if usage and "" in (row["PricingQuantity"], row["ConsumedQuantity"], row["SkuId"], row["SkuPriceId"]):
        wrong.append("a usage charge needs quantities, a SKU and a SKU price")
    if row["SubAccountId"] and not row["SubAccountType"]:
        wrong.append("SubAccountType must not be null for a sub account")
    if row.get("ListUnitPrice", "") == "" and not (
        Decimal(row["ListCost"]) == Decimal(row["ContractedCost"]) == Decimal(row["BilledCost"])
    ):
        wrong.append("without unit prices, list and contracted cost must match the billed one")
    return wrong


def _time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
