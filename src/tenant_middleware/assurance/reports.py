"""An audit's findings for a machine (JSON, JUnit) and on one page (HTML)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from typing import Any
from xml.etree import ElementTree

from tenant_middleware.assurance.audit import AuditReport, Finding
from tenant_middleware.clock import utc

_HEADINGS = {0: "Nothing leaked", 1: "Something LEAKED", 2: "A control failed: this proves nothing"}
_COLOURS = {"held": "#1a7f37", "LEAK": "#cf222e", "CONTROL FAILED": "#9a6700", "skipped": "#6e7781"}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2328}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem;border-bottom:1px solid #d0d7de;"
    "vertical-align:top}code{font-size:.9em}"
)


def as_json(report: AuditReport) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "began": utc(report.began).isoformat(),
        "seed": report.seed,
        "exit_code": report.exit_code,
        "leaks": len(report.leaks),
        "failed_controls": len(report.failed_controls),
        "swept": list(report.swept),
        "findings": [asdict(finding) for finding in report.findings],
    }


def as_junit(report: AuditReport) -> str:
    """The report as JUnit XML: a leak is a failure, a failed control an error."""
    counts: Mapping[str, str] = {
        "tests": str(len(report.findings)),
        "failures": str(len(report.leaks)),
        "errors": str(len(report.failed_controls)),
        "skipped": str(sum(finding.outcome == "skipped" for finding in report.findings)),
    }
    suite = ElementTree.Element("testsuite", {"name": "tenant-middleware audit", **counts})
    for finding in report.findings:
        _add_case(suite, finding)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _add_case(suite: ElementTree.Element, finding: Finding) -> None:
    attributes = {"name": finding.probe, "classname": "tenant_audit", "time": f"{finding.seconds:.4f}"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    tag = {"LEAK": "failure", "CONTROL FAILED": "error", "skipped": "skipped"}.get(finding.outcome)
    if tag is not None:
        ElementTree.SubElement(case, tag, {"message": finding.detail})


def as_html(report: AuditReport) -> str:
    """The report as one page that needs nothing else."""
    rows = "\n".join(
        f"<tr><td><code>{escape(f.probe)}</code></td><td>{escape(f.tries)}</td>"
        f'<td style="color:{_COLOURS[f.outcome]}"><b>{escape(f.outcome)}</b></td><td>{escape(f.detail)}</td></tr>'
        for f in report.findings
    )
    swept = f" What was left of {len(report.swept)} killed audits was removed." if report.swept else ""
    when = utc(report.began).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Tenant audit</title><style>{_STYLE}</style>'
        f"<h1>{_HEADINGS[report.exit_code]}</h1><p>{len(report.findings)} probes, {when}, seed {report.seed}. Each "
        "probe that held was run as the owner as well, who found its canary, and once with the guard off, when it "
        f"leaked.{swept}</p><table><tr><th>Probe<th>It tries<th>Outcome<th>Why</tr>\n{rows}</table></html>\n"
    )


def dumps(report: AuditReport) -> str:
    """`as_json` as text."""
    return json.dumps(as_json(report), indent=2)
