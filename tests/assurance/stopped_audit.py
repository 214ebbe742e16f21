"""A process that runs `tenant-middleware audit` and, once everything is planted, says so and waits to be stopped."""

from __future__ import annotations

import signal
import sys

from tenant_middleware.assurance.probes import CATALOGUE, Probe, Stage
from tenant_middleware.cli import main
from tenant_middleware.tenant import Tenant


def stand_still(stage: Stage, who: Tenant) -> object:
    print("planted", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    probes = (*CATALOGUE, Probe("zz", "nothing, until it is stopped", stand_still))
    sys.modules["tenant_middleware.cli.audit"]._catalogue = lambda saver, store: probes  # type: ignore[attr-defined]  # a module
    main()
