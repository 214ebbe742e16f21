"""Bring constraints.txt up to date with an environment: what `pip freeze` says there replaces the older pin.

Pins of packages that this environment lacks are kept: the file covers every make target. Only names and versions go
in, never where a package came from.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parent.parent / "constraints.txt"
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)$")
OURS = "tenant-middleware"


def pins(text: str) -> dict[str, str]:
    found = (PIN.match(line.strip()) for line in text.splitlines())
    return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in found if match}


def main() -> None:
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    merged = pins(FILE.read_text()) | pins(frozen)
    merged.pop(OURS, None)
    FILE.write_text("".join(f"{name}=={version}\n" for name, version in sorted(merged.items())))


if __name__ == "__main__":
    main()
