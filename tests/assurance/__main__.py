"""`python -m tests.assurance`: the audit over every deployment; exit code 1 on a leak, 2 when a control fails."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tenant_middleware.assurance.audit import audit
from tenant_middleware.assurance.probes import CATALOGUE
from tenant_middleware.langchain.probes import PROBES as LANGCHAIN
from tenant_middleware.llamaindex.probes import PROBES as LLAMAINDEX
from tests.assurance.deployments import DEPLOYMENTS, DIMENSION


def main() -> int:
    worst = 0
    for name, deployed in DEPLOYMENTS.items():
        with tempfile.TemporaryDirectory(prefix="tm-audit-") as folder, deployed(Path(folder)) as tenancy:
            report = audit(tenancy, dimension=DIMENSION, pause=0, probes=(*CATALOGUE, *LANGCHAIN, *LLAMAINDEX))
        held = sum(finding.outcome == "held" for finding in report.findings)
        print(f"{name}: {held} of {len(report.findings)} probes held, seed {report.seed}")
        for finding in report.findings:
            if finding.outcome != "held":
                print(f"  {finding.outcome} {finding.probe}: {finding.detail}")
        code = report.exit_code or (0 if held == len(report.findings) else 2)
        worst = worst if worst == 1 or not code else code
    return worst


if __name__ == "__main__":
    sys.exit(main())
