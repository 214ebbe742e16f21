"""The report as one page that needs nothing else: no network, no server, no fonts."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

from tenant_middleware.errors import missing_extra
from tenant_middleware.reporting.report import Report, as_json

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape
except ImportError as error:
    raise missing_extra("report", __name__) from error

_EVIDENCE = ("stage", "calls", "median", "others_median", "chance")


def to_html(report: Report) -> str:
    """One self-contained HTML page; names out of tokens and requests are escaped."""
    values = as_json(report)
    title = "Usage report" if report.tenant_id is None else f"Usage report of {report.tenant_id}"
    page = _environment().get_template("page.html.j2")
    return page.render(r=values, title=title, data=_inside_a_script(values), evidence=_evidence)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tenant_middleware.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"usd": _usd, "day": _day}
    return environment


def _inside_a_script(values: dict[str, Any]) -> Markup:
    """JSON that no text in it can end: a model's name may hold `</script>`."""
    text = json.dumps({"tenants": values["tenants"], "heat_maps": values["heat_maps"]}, separators=(",", ":"))
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def _usd(text: str) -> str:
    """Dollars with two digits after the point at least, and as many as it needs to show something."""
    amount = Decimal(text)
    if amount == amount.quantize(Decimal("0.01")) or amount >= 1:
        return f"{amount:,.2f}"
    return f"{amount:.9f}".rstrip("0")


def _day(iso: str) -> str:
    return dt.datetime.fromisoformat(iso).strftime("%d %b %Y %H:%M")


def _evidence(verdict: dict[str, Any]) -> Markup:
    """The stages of one verdict as a table; without the others' figures in a tenant's own report."""
    with_others = any("others" in one for one in verdict["evidence"])
    heads = ["Stage", "Calls", "Median, s"] + (["Others' median, s", "By chance"] if with_others else [])
    rows = []
    for one in verdict["evidence"]:
        cells = [f"{one['calls']:,}", f"{one['median']:.4g}"]
        if with_others:
            cells += [f"{one.get('others_median', 0):.4g}", f"{one.get('chance', 1):.2g}"]
        name = f"{one['stage']} (a token)" if one["stage"] == "generation" else one["stage"]
        kind = ' class="bad"' if one["found"] else ""
        told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row"{kind}>{escape(name)}</th>{told}</tr>')
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
    body = "".join(rows)
    return Markup(
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
